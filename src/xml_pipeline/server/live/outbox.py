"""What a gateway publishes beside its answers. All of it is a hint: the rows in PostgreSQL are found without it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from xml_pipeline.health.pulse import beat, rest
from xml_pipeline.message_bus.messages import ControlHint, EventFrame
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.server.live.limits import MOST_UNPUBLISHED, MOST_UNPUBLISHED_BYTES
from xml_pipeline.tracing.ids import HEADER

log = structlog.get_logger(__name__)

_BATCH = 500


class Outbox:
    """A bounded queue to the bus, in order. Nobody waits for it; what does not fit is left to the sweeps."""

    def __init__(self, bus: Bus, names: Names) -> None:
        self._bus = bus
        self._names = names
        self._queue: deque[Outgoing] = deque()
        self._bytes = 0
        self._left_out = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, messages: Iterable[Outgoing]) -> None:
        """Publish soon."""
        for message in messages:
            if len(self._queue) >= MOST_UNPUBLISHED or self._bytes >= MOST_UNPUBLISHED_BYTES:
                self._left_out += 1
                continue
            self._queue.append(message)
            self._bytes += len(message.body)
            self._wake.set()
            self._idle.clear()

    def inject(self, message_id: str, envelope: bytes, traceparent: str) -> None:
        """An inbox row was committed."""
        headers: dict[str, str | int] = {"message-id": message_id, HEADER: traceparent}
        self.add([Outgoing(self._names.ingress_door, self._names.ingress, envelope, headers)])

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
            await rest(self._wake.wait())
            self._wake.clear()
            while batch := self._take():
                beat()  # without a broker each takes its time, and there is always more
                await self._publish(batch)
            self._idle.set()

    async def flush(self) -> None:
        """Wait until all that was added has been published, or could not be, while `run` goes on."""
        await self._idle.wait()

    def _take(self) -> list[Outgoing]:
        batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
        self._bytes -= sum(len(message.body) for message in batch)
        return batch

    async def _publish(self, batch: list[Outgoing]) -> None:
        if self._left_out:
            log.warning("outbox.full", left_out=self._left_out)
            self._left_out = 0
        outcomes = await self._bus.publish(batch)
        lost = sum(
            outcome is not Published.CONFIRMED and message.persistent
            for message, outcome in zip(batch, outcomes, strict=True)
        )
        if lost:
            log.warning("outbox.unconfirmed", count=lost)
