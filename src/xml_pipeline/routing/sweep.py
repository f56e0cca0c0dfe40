"""Once a second: everything that would otherwise need a wake-up of its own."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import structlog

from xml_pipeline.health.pulse import beat
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.delivery import declare_again, publish_events
from xml_pipeline.routing.events import agent_events
from xml_pipeline.routing.items import Inject, Item, Orphaned, Overdue
from xml_pipeline.routing.pipeline import Pipeline
from xml_pipeline.routing.windows import DEADLINE_MARGIN, UNKNOWN_TIMEOUT, deadline_timeout
from xml_pipeline.routing.workers import LiveWorkers
from xml_pipeline.storage import routing_parking, routing_sweep
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_sweep import OverdueRow

log = structlog.get_logger(__name__)

# Seconds after which something that normally takes milliseconds counts as forgotten.
PATIENCE = 1.0
LIMIT = 200
# Of forgotten injects in one round, so that the rest of it has its turn.
MOST_BATCHES = 10
# What is parked is not looked for again for so many times as long as that took: it costs as much as there is of it.
REST = 10.0


class Sweep:
    """One round does all of it. Rounds of several routers do not disturb each other."""

    def __init__(self, bus: Bus, db: Database, current: Current, pipeline: Pipeline, workers: LiveWorkers) -> None:
        self._bus = bus
        self._db = db
        self._current = current
        self._pipeline = pipeline
        self._workers = workers
        self._look_for_parked_at = 0.0

    async def round(self) -> None:
        """Raises DatabaseUnavailable; what was not done is done in the next round."""
        await self._restore_topology()
        await self._pipeline.note_sent()
        await self._save_capacities()
        await self._take_forgotten_injects()
        await self._publish_unconfirmed()
        await self._end_lost()
        await self._end_orphaned()
        await self._unpark()
        await self.fill()

    async def fill(self) -> None:
        """Fill every window."""
        fill = await self._pipeline.batches.fill()
        await self._pipeline.deliver(fill.released)
        await publish_events(self._bus, self._current.configured, agent_events(fill, Counter()))

    async def _restore_topology(self) -> None:
        now = self._current.configured
        if self._bus.connected and await self._bus.depth(now.names.ingress) is None and self._bus.connected:
            await declare_again(self._bus, now)

    async def _save_capacities(self) -> None:
        now = time.monotonic()
        capacities = self._workers.capacities(self._current.configured.organism.listeners, now)
        if capacities:
            async with self._db.begin() as connection:
                await routing_sweep.save_capacities(connection, capacities, lower=self._workers.all_heard(now))

    async def _take_forgotten_injects(self) -> None:
        for _ in range(MOST_BATCHES):
            beat()
            async with self._db.begin() as connection:
                ids = await routing_sweep.untaken_inbox(connection, older_than=PATIENCE, limit=LIMIT)
            await self._pipeline.run([Inject(id_) for id_ in ids])
            if len(ids) < LIMIT:
                return

    async def _end_lost(self) -> None:
        async with self._db.begin() as connection:
            rows = await routing_sweep.overdue_messages(connection, limit=LIMIT)
        if not rows:
            return
        lost = await self._lost(rows)
        if lost:
            log.warning("messages_lost", count=len(lost))
        await self._pipeline.run(lost)

    async def _end_orphaned(self) -> None:
        """What waits for a listener that is no longer configured waits in vain."""
        async with self._db.begin() as connection:
            ids = await routing_sweep.orphaned_messages(connection, limit=LIMIT)
        await self._pipeline.run([Orphaned(id_) for id_ in ids])

    async def _unpark(self) -> None:
        """What is parked goes on as soon as its budgets have room, whether by a top-up, a new limit or a correction."""
        began = time.monotonic()
        if began < self._look_for_parked_at:
            return
        await self._unpark_all()
        now = time.monotonic()
        self._look_for_parked_at = now + REST * (now - began)

    async def _unpark_all(self) -> None:
        for _ in range(MOST_BATCHES):
            beat()
            async with self._db.begin() as connection:
                listeners = await routing_parking.unpark(connection, limit=LIMIT)
            if listeners:
                log.info("messages_unparked", count=len(listeners))
            if len(listeners) < LIMIT:
                return

    async def _lost(self, rows: Sequence[OverdueRow]) -> list[Item]:
        """Overdue is not lost yet: a queue that holds something may still hold this."""
        by_listener: dict[str, list[OverdueRow]] = defaultdict(list)
        for row in rows:
            by_listener[row.to_id].append(row)
        lost: list[Item] = []
        for listener, late in by_listener.items():
            drained = await self._drained(listener)
            lost += [Overdue(row.id, row.attempt) for row in late if row.overtaken or drained]
        return lost

    async def _drained(self, listener: str) -> bool:
        if not self._bus.connected:
            return False
        depth = await self._bus.depth(self._current.configured.names.agent(listener))
        if depth is None and self._bus.connected:
            # Gone, or only not answering: one that was made anew is found empty in the next round.
            await declare_again(self._bus, self._current.configured)
        return depth == 0

    async def _publish_unconfirmed(self) -> None:
        if not self._bus.connected:
            return
        now = self._current.configured
        timeouts = {name: deadline_timeout(now.organism, name) for name in now.organism.listeners}
        default = UNKNOWN_TIMEOUT + DEADLINE_MARGIN
        async with self._db.begin() as connection:
            released = await routing_sweep.claim_unconfirmed(
                connection, timeouts, older_than=PATIENCE, limit=LIMIT, default_timeout=default
            )
        if released:
            log.info("published_again", count=len(released))
        await self._pipeline.deliver(released)
