"""Gateways of the model, and the clients behind them, who ask again until they hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid5

from tests.support import routing as given
from tests.unit.routing_model.broker import INGRESS, Broker
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import Database, Deadlock, Key, Transaction, UniqueViolation, step
from tests.unit.routing_model.organism import SPACE, THREADS
from tests.unit.routing_model.rows import InboxEntry, Shortcut, Shortcuts
from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope
from xml_pipeline.routing.items import Inject
from xml_pipeline.storage.routing_rows import ThreadRow

MOST_REQUESTS = 12
MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends, again with the same key until it has an answer. `id` follows from the key."""

    id: UUID
    thread_id: UUID
    to_id: str


@dataclass(slots=True)
class Clients:
    """`answers`: the ids that they were told are accepted, or not."""

    chance: Chance
    requests: list[Request] = field(default_factory=list)
    answers: dict[UUID, bool] = field(default_factory=dict)

    def some(self) -> list[Request]:
        """One or two requests that come at the same time; repeated ones among them."""
        return [self._one() for _ in range(1 + self.chance.below(2))]

    def wait(self) -> bool:
        """Whether somebody has something to ask."""
        return len(self.requests) < MOST_REQUESTS or bool(self.unanswered())

    def unanswered(self) -> list[Request]:
        """What has to be asked again."""
        return [request for request in self.requests if request.id not in self.answers]

    def _one(self) -> Request:
        if self.requests and (len(self.requests) >= MOST_REQUESTS or self.chance.happens(30)):
            return self.chance.pick(self.requests)
        id_ = uuid5(SPACE, f"inject {len(self.requests)}")
        request = Request(id_, self.chance.pick((THREADS[0], *THREADS)), self.chance.pick(("ann", "bob")))
        self.requests.append(request)
        return request


@dataclass(slots=True)
class Gateway:
    """One process."""

    db: Database
    broker: Broker
    clients: Clients
    shortcuts: Shortcuts

    async def accept(self, requests: Sequence[Request]) -> None:
        """One transaction; then they are accepted, whether or not the broker hears of it."""
        for _ in range(MOST_TRIES):
            try:
                accepted = await self._transaction({request.id: request for request in requests})
            except (Deadlock, UniqueViolation):
                continue
            for id_ in accepted:
                await self.broker.publish(INGRESS, Inject(id_))
            await step("answer the client")
            self.clients.answers |= {request.id: request.id in accepted for request in requests}
            return

    async def _transaction(self, requests: dict[UUID, Request]) -> set[UUID]:
        async with Transaction(self.db) as transaction:
            known = (await transaction.statement("look for the keys")).pick("inbox", requests)
            fresh = [request for id_, request in requests.items() if id_ not in known]
            created = await self._insert_threads(transaction, fresh)
            alive = await self._lock_alive(transaction, fresh)
            inserted = await self._insert(transaction, [one for one in fresh if one.thread_id in alive])
            await self._count_open(transaction, fresh if self._counts_as_meant else inserted)
            await self._forget_unused(transaction, created - {one.thread_id for one in inserted})
            again = (await transaction.statement("look for the keys again")).pick("inbox", requests)
        return set(again)

    @property
    def _counts_as_meant(self) -> bool:
        return Shortcut.INJECT_COUNTED_AS_MEANT in self.shortcuts

    async def _insert_threads(self, transaction: Transaction, fresh: Sequence[Request]) -> set[UUID]:
        await transaction.statement("insert threads")
        created = set()
        for id_ in sorted({request.thread_id for request in fresh}):
            if await transaction.insert(("thread", id_), ThreadRow(id_, "active", 0, 0, 0, (), None)):
                created.add(id_)
        return created

    async def _lock_alive(self, transaction: Transaction, fresh: Sequence[Request]) -> dict[UUID, ThreadRow]:
        view = await transaction.statement("lock threads that are alive")
        threads = view.pick("thread", sorted({request.thread_id for request in fresh}))
        if Shortcut.INJECT_WITHOUT_THREAD_LOCK not in self.shortcuts:
            threads = {id_: await transaction.lock(("thread", id_)) for id_ in threads}
        return {id_: row for id_, row in threads.items() if row is not None and row.status != "killed"}

    async def _insert(self, transaction: Transaction, fresh: Sequence[Request]) -> list[Request]:
        await transaction.statement("insert injects")
        inserted = []
        for one in sorted(fresh, key=lambda request: request.id):
            body = encode_envelope(Envelope(API, one.to_id, one.thread_id, given.question(one.to_id)))
            entry = InboxEntry(one.id, one.thread_id, one.to_id, body, self.db.clock)
            if await transaction.insert(("inbox", one.id), entry):
                inserted.append(one)
        return inserted

    async def _count_open(self, transaction: Transaction, inserted: Sequence[Request]) -> None:
        view = await transaction.statement("count them as open")
        for one in inserted:
            key: Key = ("thread", one.thread_id)
            now = await transaction.lock(key)
            stale = Shortcut.INJECT_WITHOUT_THREAD_LOCK in self.shortcuts
            row = view.get(*key) if stale else now
            transaction.writes[key] = replace(row, open=row.open + 1, status="active")

    async def _forget_unused(self, transaction: Transaction, created: set[UUID]) -> None:
        view = await transaction.statement("forget unused threads")
        for id_, row in view.pick("thread", created).items():
            if row.open == 0 and row.slots == 0:
                transaction.writes["thread", id_] = None
