"""A service's health as metrics: the same words as /livez and /readyz."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from xml_pipeline.health.health import Health
from xml_pipeline.metrics.catalogue import ALIVE, BUILD, CHECK, READY
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.registry import Metrics

_DISTRIBUTION = "xml-pipeline"


def tell_health(metrics: Metrics, health: Health, service: str) -> None:
    """Tell of a process: of `service`, and in its place of the services that are its parts."""
    build = Reading(BUILD, (service, version(_DISTRIBUTION)), 1.0)
    metrics.read((BUILD, READY, ALIVE, CHECK), lambda: [build, *_of_process(health, service)])


def _of_process(health: Health, service: str) -> Iterator[Reading]:
    for name, part in (health.parts or {service: health}).items():
        yield from _of_service(part, name)


def _of_service(health: Health, name: str) -> Iterator[Reading]:
    ready = health.ready()
    yield Reading(READY, (name,), float(ready.ok))
    yield Reading(ALIVE, (name,), float(health.alive().ok))
    # A check that is not needed is `ok` while it is down.
    for check in ready.checks:
        yield Reading(CHECK, (name, check.name), float(check.ok and check.state == "up"))
