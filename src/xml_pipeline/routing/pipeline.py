"""A batch's whole way: transaction, publish, feed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from xml_pipeline.message_bus.port import Bus
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.delivery import publish_events, publish_released
from xml_pipeline.routing.events import feed_events
from xml_pipeline.routing.items import Item
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.storage.routing_rows import Sent


class Pipeline:
    """What every batch goes through, whether it came from ingress or from a sweep."""

    def __init__(self, bus: Bus, batches: Batches, current: Current) -> None:
        self.batches = batches
        self._bus = bus
        self._current = current

    async def run(self, items: Sequence[Item]) -> list[Routed]:
        """Commit, publish what is out, tell the feed. Waits while the database is gone."""
        done = await self.batches.run(items)
        for routed in done:
            await self._publish(routed)
        return done

    async def note_sent(self) -> None:
        """Write down what the broker has confirmed, if no later batch did. Raises DatabaseUnavailable."""
        if self.batches.has_unnoted:
            await self.batches.note_sent()

    def note_later(self, sent: Sequence[Sent]) -> None:
        """The next transaction writes these confirms down."""
        self.batches.note_later(sent)

    async def _publish(self, routed: Routed) -> None:
        now = self._current.configured
        sent, _ = await asyncio.gather(
            publish_released(self._bus, now, routed.fill.released),
            publish_events(self._bus, now, feed_events(routed)),
        )
        self.note_later(sent)
