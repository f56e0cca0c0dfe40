"""A batch's whole way: transaction, publish, feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from xml_pipeline.message_bus.port import Bus
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.delivery import publish_events, publish_released
from xml_pipeline.routing.events import feed_events
from xml_pipeline.routing.items import Item
from xml_pipeline.routing.traces import route_spans
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.storage.routing_rows import Released
from xml_pipeline.tracing.port import OFF, Tracing


class Pipeline:
    """What every batch goes through, whether it came from ingress or from a sweep."""

    def __init__(self, bus: Bus, batches: Batches, current: Current, tracing: Tracing = OFF) -> None:
        self.batches = batches
        self._bus = bus
        self._current = current
        self._tracing = tracing

    async def run(self, items: Sequence[Item]) -> list[Routed]:
        """Commit, publish what is out, tell the feed. Waits while the database is gone."""
        began = time.time_ns()
        done = await self.batches.run(items)
        for routed in done:
            if self._tracing.on:
                self._tracing.tell(route_spans(routed, began, time.time_ns()))
            await self._publish(routed)
        return done

    async def note_sent(self) -> None:
        """Write down what the broker has confirmed, if no later batch did. Raises DatabaseUnavailable."""
        if self.batches.has_unnoted:
            await self.batches.note_sent()

    async def deliver(self, released: Sequence[Released]) -> None:
        """Publish what is out; the next transaction writes down what the broker has confirmed."""
        sent = await publish_released(self._bus, self._current.configured, released, self._tracing)
        self.batches.note_later(sent)

    async def _publish(self, routed: Routed) -> None:
        await asyncio.gather(
            self.deliver(routed.fill.released),
            publish_events(self._bus, self._current.configured, feed_events(routed)),
        )
