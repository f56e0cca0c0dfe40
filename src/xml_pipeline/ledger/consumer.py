"""The usage queue: batches in; transactions, replies and acks out. A gone database or broker is waited for."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError

from xml_pipeline.errors import DatabaseUnavailable, InvalidPayload
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import beat, rest
from xml_pipeline.ledger import books
from xml_pipeline.ledger.feed import frame
from xml_pipeline.ledger.intake import LedgerMessage, parse_ledger_message
from xml_pipeline.ledger.metrics import LedgerMetrics
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.ledger.slices import in_slices
from xml_pipeline.ledger.traces import booking_spans
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.logs import log_ids
from xml_pipeline.message_bus.messages import ControlHint, HoldReply
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming, Outgoing
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.storage import ledger as rows
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.threads import kill_thread
from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

BATCH = 4000
# While the database books one batch, the next is parsed and priced, and the one before is told of.
AT_ONCE = 3
# A batch makes tens of thousands of objects that live until it is booked. Collected as often as Python would, they are
# looked at again and again, for a third of the service's time.
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
_ATTEMPTS = 5
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
# Serialisation failure, deadlock, unique violation by a concurrent insert, lock not available.
_WORTH_ANOTHER_TRY = frozenset({"40001", "40P01", "23505", "55P03"})


def collect_rarely() -> None:
    """Have this process look for garbage in cycles at the pace of batches."""
    gc.set_threshold(max(_OBJECTS_BETWEEN_COLLECTIONS, gc.get_threshold()[0]))


@dataclass(frozen=True, slots=True)
class _Item:
    delivery: Incoming
    message: LedgerMessage


class Bookkeeper:
    """Books what arrives, for the organism as it is configured now."""

    def __init__(self, bus: Bus, db: Database, organism: Organism, metrics: Metrics, tracing: Tracing = OFF) -> None:
        self._bus = bus
        self._tracing = tracing
        self._db = db
        self._names = Names(organism.name)
        self._metrics = LedgerMetrics(metrics)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._door = asyncio.Lock()  # for whoever takes a batch
        self._turn = asyncio.Lock()  # for whoever books one
        self.configure(organism)

    @property
    def busy(self) -> bool:
        """Whether a batch is under way."""
        return self._under_way > 0

    async def until_idle(self) -> None:
        """Return when no batch is under way."""
        await self._idle.wait()

    def configure(self, organism: Organism) -> None:
        """Take over prices and budgets of a new configuration."""
        self._rules = Rules(organism.max_tokens_per_thread, organism.budgets)
        self._pricing = Prices(organism.prices).cost

    async def consume(self, consumer: Consumer) -> None:
        """One batch: booked, told of and acknowledged when this returns. `AT_ONCE` may be under way.

        The next is taken when this one is booked; at once where this one is full, since then more is waiting.
        """
        await rest(self._door.acquire())
        with ExitStack() as door:
            door.callback(self._door.release)
            deliveries = await rest(consumer.batch(BATCH))
            if len(deliveries) == BATCH:
                door.close()
            with self._counted():
                began = time.time_ns()
                booked = await self._book(await self._parse(deliveries))
                door.close()
                for _, changes in booked:
                    self._trace(changes, began)
                await self._end(booked)
                await consumer.ack(deliveries)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _end(self, booked: Sequence[tuple[list[_Item], Changes]]) -> None:
        for part, changes in booked:
            failpoint("usage.after-commit")
            await self._kill(changes)
            await self._tell(part, changes)
        failpoint("usage.before-ack")

    async def sweep(self) -> None:
        """Book the holds whose time is over. Raises DatabaseUnavailable."""
        began = time.time_ns()
        try:
            changes = await books.sweep(self._db, rules=self._rules, pricing=self._pricing)
        except (DBAPIError, books.Conflict) as error:
            log.info("sweep_put_off", error=_first_line(error))
            return
        self._trace(changes, began)
        for call_id in changes.moved:
            booking = changes.booked.get(call_id)
            ids = {} if booking is None else log_ids(booking.thread_id, booking.message_id)
            log.warning("hold_expired", call_id=str(call_id), **ids)
        self._metrics.changed(changes)
        await self._tell([], changes)

    def _trace(self, changes: Changes, began_ns: int) -> None:
        if self._tracing.on:
            self._tracing.tell(booking_spans(changes, began_ns, time.time_ns()))

    # What arrives

    async def _parse(self, deliveries: Sequence[Incoming]) -> list[_Item]:
        items = []
        async for part in in_slices(deliveries):
            for delivery in part:
                try:
                    items.append(_Item(delivery, parse_ledger_message(delivery.body)))
                except InvalidPayload as error:
                    await self._bury(delivery, str(error))
        return items

    async def _bury(self, delivery: Incoming, reason: str) -> None:
        log.warning("usage_message_refused", reason=reason)
        id_, pause = uuid4(), _FIRST_PAUSE
        while True:
            try:
                await self._add_dead_letter(id_, reason, delivery.body)
            except DatabaseUnavailable as error:
                pause = await _wait_for_database(error, pause)
            else:
                self._metrics.refused()
                return

    async def _add_dead_letter(self, id_: UUID, reason: str, body: bytes) -> None:
        async with self._db.begin() as connection:
            await rows.add_dead_letter(connection, id_, reason, body)

    # What is booked

    async def _book(self, items: list[_Item]) -> list[tuple[list[_Item], Changes]]:
        """Book all, in as few transactions as possible: a culprit is searched for by halves, and buried."""
        if not items:
            return []
        try:
            return [(items, await self._book_at_once(items))]
        except (DBAPIError, books.Conflict) as error:
            if len(items) == 1:
                await self._bury(items[0].delivery, _first_line(error))
                return []
        middle = len(items) // 2
        return [*await self._book(items[:middle]), *await self._book(items[middle:])]

    async def _book_at_once(self, items: Sequence[_Item]) -> Changes:
        began = time.monotonic()
        changes = await self._booked([item.message for item in items])
        self._metrics.booked(len(items), time.monotonic() - began, changes)
        return changes

    async def _booked(self, messages: Sequence[LedgerMessage]) -> Changes:
        attempt, pause = 1, _FIRST_PAUSE
        while True:
            try:
                return await books.book(self._db, messages, rules=self._rules, pricing=self._pricing, turn=self._turn)
            except DatabaseUnavailable as error:
                pause = await _wait_for_database(error, pause)
            except (DBAPIError, books.Conflict) as error:
                if attempt == _ATTEMPTS or not _worth_another_try(error):
                    raise
                attempt += 1

    # What ends

    async def _kill(self, changes: Changes) -> None:
        """End the threads that a budget is at its end for. Before the reply: who gets none asks again."""
        for thread_id in sorted(changes.kills):
            pause = _FIRST_PAUSE
            while not await self._killed(thread_id):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _killed(self, thread_id: UUID) -> bool:
        try:
            async with self._db.begin() as connection:
                killed = await kill_thread(connection, thread_id, actor="budget")
        except (DatabaseUnavailable, DBAPIError) as error:
            log.warning("kill_put_off", error=_first_line(error), **log_ids(thread_id))
            return False
        if killed is not None and killed.before != "killed":
            log.warning("thread_killed_at_limit", **log_ids(thread_id))
            hint = ControlHint(kind="kill", thread_id=thread_id).model_dump_json().encode()
            await self._bus.publish([Outgoing(self._names.control, "", hint, persistent=False)])
        return True

    # What is told

    async def _tell(self, items: Sequence[_Item], changes: Changes) -> None:
        for position, reason in changes.refused:
            await self._bury(items[position].delivery, reason)
        outgoing = [
            _reply(items[position].delivery, reply)
            for position, reply in changes.replies.items()
            if items[position].delivery.reply_to
        ]
        news = frame(changes)
        if news is not None:
            body = news.model_dump_json().encode()
            outgoing.append(Outgoing(self._names.events, "feed.usage", body, persistent=False))
        if outgoing:
            # Whoever misses a reply asks again.
            await self._bus.publish(outgoing)


def _reply(request: Incoming, reply: HoldReply) -> Outgoing:
    return Outgoing(
        exchange="",
        routing_key=request.reply_to or "",
        body=reply.model_dump_json().encode(),
        persistent=False,
        correlation_id=request.correlation_id or str(reply.call_id),
    )


def _worth_another_try(error: DBAPIError | books.Conflict) -> bool:
    return isinstance(error, books.Conflict) or _sqlstate(error) in _WORTH_ANOTHER_TRY


def _sqlstate(error: DBAPIError) -> str | None:
    cause = error.orig.__cause__ if error.orig is not None else None
    return cause.sqlstate if isinstance(cause, asyncpg.PostgresError) else None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


async def _wait_for_database(error: DatabaseUnavailable, pause: float) -> float:
    beat()
    log.warning("ledger_waits_for_database", error=str(error))
    await asyncio.sleep(pause)
    return min(2 * pause, _LONGEST_PAUSE)
