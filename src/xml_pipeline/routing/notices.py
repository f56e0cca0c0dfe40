"""What services say to all: heartbeats of workers, and hints that a row has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from pydantic import ValidationError

from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.messages import ControlHint, Heartbeat
from xml_pipeline.message_bus.port import Consumer, Incoming
from xml_pipeline.message_bus.topology import Binding, Names
from xml_pipeline.routing.workers import LiveWorkers

log = structlog.get_logger(__name__)


def notice_bindings(names: Names) -> Sequence[Binding]:
    """What a router wants to hear."""
    return (Binding(names.events, "", "heartbeat.agent-worker"), Binding(names.control, ""))


async def listen(consumer: Consumer, names: Names, workers: LiveWorkers, wakes: Sequence[asyncio.Event]) -> None:
    """Remember heartbeats; a hint sets all `wakes`, whatever it says: the rows tell the rest."""
    while True:
        for notice in await rest(consumer.batch(1000)):
            try:
                _hear(notice, names, workers, wakes)
            except ValidationError:
                log.warning("notice_unreadable", exchange=notice.exchange, routing_key=notice.routing_key)


def _hear(notice: Incoming, names: Names, workers: LiveWorkers, wakes: Sequence[asyncio.Event]) -> None:
    if notice.exchange == names.events:
        workers.hear(Heartbeat.model_validate_json(notice.body), time.monotonic())
    else:
        ControlHint.model_validate_json(notice.body)
        for wake in wakes:
            wake.set()
