"""What a gateway publishes beside its answers. All of it is a hint: the rows in PostgreSQL are found without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.messages import ControlHint, EventFrame
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.topology import Names

log = structlog.get_logger(__name__)

_LIMIT = 20_000
_BATCH = 500


class Outbox:
    """A bounded queue to the bus, in order. Nobody waits for it; what does not fit is left to the sweeps."""

    def __init__(self, bus: Bus, names: Names) -> None:
        self._bus = bus
        self._names = names
        self._queue: asyncio.Queue[Outgoing] = asyncio.Queue(_LIMIT)

    def add(self, messages: Iterable[Outgoing]) -> None:
        """Publish soon."""
        for message in messages:
            if self._queue.full():
                log.warning("outbox.full")
                return
            self._queue.put_nowait(message)

    def inject(self, message_id: str, envelope: bytes) -> None:
        """An inbox row was committed."""
        self.add([Outgoing("", self._names.ingress, envelope, {"message-id": message_id})])

    def events(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Something for the live feed happened."""
        frame = EventFrame(events=tuple(dict(event) for event in events))
        if frame.events:
            body = frame.model_dump_json().encode()
            self.add([Outgoing(self._names.events, "feed.gateway", body, persistent=False)])

    def hint(self, hint: ControlHint) -> None:
        """The rows that steer have changed."""
        body = hint.model_dump_json(exclude_none=True).encode()
        self.add([Outgoing(self._names.control, "", body, persistent=False)])

    async def run(self) -> None:
        """Publish what is added, until cancelled."""
        while True:
            batch = self._collect(await rest(self._queue.get()))
            await self._publish(batch)
            for _ in batch:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until all that was added has been published, or could not be, while `run` goes on."""
        await self._queue.join()

    def _collect(self, first: Outgoing) -> list[Outgoing]:
        batch = [first]
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _publish(self, batch: list[Outgoing]) -> None:
        outcomes = await self._bus.publish(batch)
        lost = sum(
            outcome is not Published.CONFIRMED and message.persistent
            for message, outcome in zip(batch, outcomes, strict=True)
        )
        if lost:
            log.warning("outbox.unconfirmed", count=lost)
