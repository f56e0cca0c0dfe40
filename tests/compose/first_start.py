"""As the README has it: start hello-world, ask it everything, look at it, and stop it through its API."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator

import httpx
import yaml

from tests.compose.client import Client, until
from tests.compose.engine import PROMETHEUS_PORT, ROOT, SERVICES, ComposeFailed, Project, run
from tests.compose.say import say, timed

PROJECT = Project("organism-first-start", ROOT / "examples" / "hello-world")
_OBSERVABILITY = ROOT / "deploy" / "observability"
_PROMETHEUS = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1"
_START_SECONDS = 60.0
_ALERT_TESTS = "/repository/tests/unit/metrics/alerts.test.yml"


def try_first_start() -> Iterator[str]:
    """The faults."""
    with PROJECT.removed_at_the_end():
        timed("first start", lambda: PROJECT.compose("up", "--detach"))
        key = PROJECT.first_key()
        with Client(PROJECT.url, key) as client:
            timed("first answer", lambda: client.greet("Dan"))
        yield from timed("contract suite on the published port", lambda: _contract(key))
        yield from timed("doctor", lambda: list(_doctor()))
        yield from timed("Prometheus", lambda: list(_prometheus()))
        yield from timed("stop by the API", lambda: list(_stop(key)))


def _contract(key: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/compose/published.py"]
    environment = {"ORGANISM_URL": PROJECT.url, "ORGANISM_API_KEY": key}
    try:
        said = run(*command, **environment)
    except ComposeFailed as error:
        return [f"the contract suite: {error}"]
    say(f"contract suite: {said.splitlines()[-1].strip()}")
    return []


def _doctor() -> Iterator[str]:
    """It finds nothing, not even a warning."""
    management = ("--management", "http://organism@rabbitmq:15672")
    found = json.loads(PROJECT.organism("doctor", "--json", *management))["findings"]
    say(f"doctor: {len(found)} checks")
    yield from (f"doctor: {one['check']}: {one['said']}" for one in found if one["state"] != "ok")


def _prometheus() -> Iterator[str]:
    """It finds every service, and takes every alert and every expression of the dashboards."""
    PROJECT.compose("up", "--detach", "--no-deps", "prometheus")
    with httpx.Client(base_url=_PROMETHEUS, timeout=10) as api:
        until(lambda: _scraped(api) >= set(SERVICES), "Prometheus scrapes every service", _START_SECONDS)
        rules = api.get("/rules").raise_for_status().json()["data"]["groups"]
        alerts = [rule["name"] for group in rules for rule in group["rules"]]
        expressions = list(_expressions())
        for expression in expressions:
            answer = api.get("/query", params={"query": expression})
            if answer.is_error:
                yield f"Prometheus refuses {expression}: {answer.text[:300]}"
    written = [rule["alert"] for group in _alert_groups() for rule in group["rules"]]
    if alerts != written:
        yield f"Prometheus knows the alerts {alerts}, not {written}"
    say(
        f"Prometheus: scrapes {', '.join(SERVICES)}; {len(alerts)} alerts, {len(expressions)} expressions of dashboards"
    )
    yield from _promtool()


def _scraped(api: httpx.Client) -> set[str]:
    try:
        answer = api.get("/query", params={"query": "up == 1"})
        return {series["metric"]["job"] for series in answer.raise_for_status().json()["data"]["result"]}
    except httpx.HTTPError:
        return set()


def _alert_groups() -> list[dict[str, list[dict[str, str]]]]:
    return list(yaml.safe_load((_OBSERVABILITY / "alerts.yml").read_text())["groups"])


def _expressions() -> Iterator[str]:
    for file in sorted((_OBSERVABILITY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield re.sub(r"\$__rate_interval", "5m", target["expr"])


def _promtool() -> Iterator[str]:
    """Each alert fires when it should, and only then."""
    image = ("--volume", f"{ROOT}:/repository:ro", "--entrypoint", "promtool", "prom/prometheus:v3.5.0")
    try:
        run("docker", "run", "--rm", "--network", "none", *image, *("test", "rules"), _ALERT_TESTS)
    except ComposeFailed as error:
        yield f"promtool: {error}"


def _stop(key: str) -> Iterator[str]:
    """`restart: on-failure`: who was told to stop ends with 0, and stays so."""
    with Client(PROJECT.url, key) as client:
        client.post("/organism/stop")
    for service in SERVICES:
        until(lambda service=service: PROJECT.ended(service), f"{service} has stopped", _START_SECONDS)  # type: ignore[misc]
        if PROJECT.ended(service) != [0] or PROJECT.containers(service):
            yield f"{service} was told to stop: it ended with {PROJECT.ended(service)}"
