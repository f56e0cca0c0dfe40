"""A router of the model: the real decisions over batches from the broker, and the sweep, as they follow each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tests.support import routing as given
from tests.unit.routing_model.broker import INGRESS, Broker
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import Database, Deadlock, Transaction, UniqueViolation, step
from tests.unit.routing_model.invariants import Broken
from tests.unit.routing_model.organism import ORGANISM
from tests.unit.routing_model.rows import Shortcut, Shortcuts, Stored, messages_of, released
from tests.unit.routing_model.store import ModelStore
from xml_pipeline.routing.items import Inject, Item, Overdue
from xml_pipeline.routing.sweep import PATIENCE
from xml_pipeline.routing.transaction import BatchConflict, Routed, route
from xml_pipeline.routing.windows import deadline_timeout, fill_windows
from xml_pipeline.storage.routing_rows import Released, Sent

MOST_TRIES = 20
MOST_ITEMS = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """A released message as its worker gets it."""

    released: Released


@dataclass(slots=True)
class Router:
    """One process: its memory is what the broker confirmed and no transaction has noted yet."""

    name: str
    db: Database
    broker: Broker
    chance: Chance
    shortcuts: Shortcuts
    unnoted: list[Sent] = field(default_factory=list)

    async def batch(self) -> None:
        """What has arrived: routed, published, and only then acknowledged."""
        items = self.broker.take(INGRESS, self.name, 1 + self.chance.below(MOST_ITEMS))
        if Shortcut.ACK_BEFORE_COMMIT in self.shortcuts:
            self.broker.ack(self.name, INGRESS, items)
        await self._run(items)
        if Shortcut.ACK_BEFORE_COMMIT not in self.shortcuts:
            self.broker.ack(self.name, INGRESS, items)

    async def sweep(self) -> None:
        """One round."""
        await self._note_sent()
        await self._take_forgotten_injects()
        if Shortcut.UNCONFIRMED_FORGOTTEN not in self.shortcuts:
            await self._publish_unconfirmed()
        if Shortcut.OVERDUE_FORGOTTEN not in self.shortcuts:
            await self._end_lost()
        if Shortcut.PARKED_FORGOTTEN not in self.shortcuts:
            await self._unpark()
        if Shortcut.RELEASE_ON_TURNS_ONLY not in self.shortcuts:
            await self._fill()

    async def _run(self, items: Sequence[Item]) -> None:
        if not items:
            return
        for _ in range(MOST_TRIES):
            try:
                routed = await self._transaction(items)
            except (BatchConflict, UniqueViolation, Deadlock):
                continue
            self._forget({closing.message_id for closing in routed.decision.changes.closings})
            await self._publish(routed.fill.released)
            return
        raise Broken("a batch never gets through")

    async def _transaction(self, items: Sequence[Item]) -> Routed:
        noted, self.unnoted = self.unnoted, []
        try:
            async with Transaction(self.db) as transaction:
                store = ModelStore(transaction, self.shortcuts)
                return await route(store, items, ORGANISM, given.TagCheck(), noted)
        except BaseException:
            self.unnoted = noted + self.unnoted
            raise

    async def _publish(self, gone: Sequence[Released]) -> None:
        if not gone:
            return
        confirmed = await self.broker.publish_many([(one.to_id, Delivery(one)) for one in gone])
        self.unnoted += [Sent(one.id, one.attempt) for one, seen in zip(gone, confirmed, strict=True) if seen]

    def _forget(self, closed: Collection[object]) -> None:
        self.unnoted = [sent for sent in self.unnoted if sent.message_id not in closed]

    # The sweep

    async def _note_sent(self) -> None:
        if self.unnoted:
            noted, self.unnoted = self.unnoted, []
            async with Transaction(self.db) as transaction:
                await ModelStore(transaction).note_sent(noted)

    async def _take_forgotten_injects(self) -> None:
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("find forgotten injects")
        old = [row for row in view.table("inbox").values() if not row.taken and row.created < self._now - PATIENCE]
        await self._run([Inject(row.id) for row in old])

    async def _publish_unconfirmed(self) -> None:
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("claim what is not confirmed")
            claimed = [row for stored in messages_of(view) if (row := self._claim(transaction, stored)) is not None]
        await self._publish([released(row) for row in claimed])

    def _claim(self, transaction: Transaction, seen: Stored) -> Stored | None:
        """SKIP LOCKED; its time begins anew, so that no other router takes it for the same reason."""
        key = ("message", seen.new.id)
        if not self._is_stale(seen) or not transaction.try_lock(key):
            return None
        now: Stored = transaction.current(key)
        if not self._is_stale(now):
            return None
        deadline = self._now + deadline_timeout(ORGANISM, now.new.to_id)
        claimed = replace(now, sent=self._now, deadline=deadline)
        transaction.writes[key] = claimed
        return claimed

    def _is_stale(self, stored: Stored) -> bool:
        return stored.state == "out" and not stored.confirmed and stored.sent < self._now - PATIENCE

    async def _end_lost(self) -> None:
        async with Transaction(self.db) as transaction:
            messages = messages_of(await transaction.statement("find what is overdue"))
        late = [row for row in messages if row.state == "out" and row.confirmed and row.deadline < self._now]
        drained = {name: await self._drained(name) for name in sorted({row.new.to_id for row in late})}
        lost = [row for row in late if drained[row.new.to_id] or _is_overtaken(row, late[0].seq, messages)]
        await self._run([Overdue(row.new.id, row.attempt) for row in lost])

    async def _drained(self, listener: str) -> bool:
        await step("look how much its queue holds", listener)
        return self.broker.depth(listener) == 0

    async def _unpark(self) -> None:
        with suppress(Deadlock):
            async with Transaction(self.db) as transaction:
                await ModelStore(transaction, self.shortcuts).unpark()

    async def _fill(self) -> None:
        try:
            async with Transaction(self.db) as transaction:
                store = ModelStore(transaction, self.shortcuts)
                fill = await fill_windows(store, await store.listeners_with_work(), ORGANISM)
        except Deadlock:
            return
        await self._publish(fill.released)

    @property
    def _now(self) -> float:
        return self.db.clock


def _is_overtaken(late: Stored, first: int, messages: Sequence[Stored]) -> bool:
    """Whether one of the same listener that was sent out later has already ended."""
    ended = (row for row in messages if row.state == "closed" and row.new.to_id == late.new.to_id and row.seq > first)
    return any(row.sent > late.sent for row in ended)
