"""Mistakes that systems like this one make, to be switched on in a service: the checker has to see each of them.

    python -m tests.chaos.bugs --bug NAME --slow SECONDS services/router/main.py

`--slow` lets a router pause between the statements of its transactions, a random time of so many seconds at most.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import runpy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.ledger import consumer as ledger_consumer
from xml_pipeline.ledger import decisions as ledger_decisions
from xml_pipeline.message_bus.port import Consumer, Outgoing, Published
from xml_pipeline.message_bus.rabbit.bus import RabbitBus
from xml_pipeline.routing import batch, decisions, ingress, outputs, transaction
from xml_pipeline.routing.windows import NO_FILL, Fill
from xml_pipeline.storage import inbox, ledger, routing_sql
from xml_pipeline.storage.routing_batch import Driver, RoutingTransaction
from xml_pipeline.storage.routing_rows import BatchKeys, Closing, InboxRow, NewMessage, Snapshot, ThreadRow

# Method by method, as they are without bugs.
_read = RoutingTransaction.read
_lock_threads = RoutingTransaction.lock_threads
_resolve = RoutingTransaction.resolve
_publish = RabbitBus.publish


def ack_before_commit() -> None:
    """What is consumed is acknowledged at once: whoever dies before his commit takes it along."""

    async def consume(self: ledger_consumer.Bookkeeper, consumer: Consumer) -> None:
        deliveries = await consumer.batch(ledger_consumer.BATCH)
        await consumer.ack(deliveries)
        await self._end(await self._book(await self._parse(deliveries)))

    async def run(self: ingress.Ingress) -> None:
        while True:
            deliveries = await self._consumer.batch(ingress.BATCH)
            await self._consumer.ack(deliveries)
            await self._pipeline.run(self._read(deliveries))

    _put(ledger_consumer.Bookkeeper, "consume", consume)
    _put(ingress.Ingress, "run", run)


def no_duplicate_check() -> None:
    """A turn or an inject that comes again counts again, under new ids."""

    async def read(self: RoutingTransaction, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        found = await _read(self, keys, threads)
        untaken = {id_: InboxRow(id_, row.thread_id, row.to_id, row.body, False) for id_, row in found.inbox.items()}
        return Snapshot(found.threads, found.messages, found.calls, untaken)

    _put(RoutingTransaction, "read", read)
    _put(decisions, "_counts", lambda turn, message: True)
    _put(outputs, "uuid5", lambda *_: uuid4())
    _put(transaction, "_require", lambda holds, what: None)
    _put(routing_sql, "INSERT_TURNS", f"{routing_sql.INSERT_TURNS} on conflict do nothing")


def unroutable_ignored() -> None:
    """A publish that found no queue counts as one that did."""

    async def publish(self: RabbitBus, messages: Sequence[Outgoing], *, timeout: float = 5.0) -> list[Published]:
        outcomes = await _publish(self, messages, timeout=timeout)
        return [Published.CONFIRMED if one is Published.UNROUTABLE else one for one in outcomes]

    _put(RabbitBus, "_can_restore", lambda *_: False)
    _put(RabbitBus, "publish", publish)


def usage_booked_again() -> None:
    """A usage event is booked each time that it comes; for this the table has no key."""
    settle = ledger_decisions._Batch.settle

    def settle_again(self: Any, position: int, event: Any) -> None:
        if event.call_id in self._bookings and event.call_id not in self._holds:
            self._situation.bookings.pop(event.call_id, None)
            self._book_without_hold(position, event)
        else:
            settle(self, position, event)

    _put(ledger_decisions._Batch, "settle", settle_again)
    _put(ledger, "_ADD_BOOKINGS", ledger._insert("usage_events", ledger._BOOKING_TYPES))


def states_read_with_the_lock() -> None:
    """One statement that locks threads and reads messages: it waits, and then sees what was before."""

    async def resolve(self: Any, keys: BatchKeys) -> list[UUID]:
        self.keys = keys
        return await _resolve(self, keys)

    async def lock_threads(self: Any, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        self.stale = await _read(self, self.keys, {})
        return await _lock_threads(self, thread_ids)

    async def read(self: Any, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        stale: Snapshot = self.stale
        return Snapshot(threads, stale.messages, stale.calls, stale.inbox, stale.turns)

    _put(RoutingTransaction, "resolve", resolve)
    _put(RoutingTransaction, "lock_threads", lock_threads)
    _put(RoutingTransaction, "read", read)


def inject_without_the_threads_lock() -> None:
    """An inject does not wait for whoever works on its thread."""

    async def resolve(self: Any, keys: BatchKeys) -> list[UUID]:
        self.handled = set(await _resolve(self, BatchKeys(keys.messages, (), ())))
        return await _resolve(self, keys)

    async def lock_threads(self: Any, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        locked = await _lock_threads(self, [id_ for id_ in thread_ids if id_ in self.handled])
        unlocked = routing_sql.LOCK_THREADS.replace("for no key update", "")
        rows = await self._driver.fetch(unlocked, [id_ for id_ in thread_ids if id_ not in self.handled])
        return locked | {row["id"]: ThreadRow(**{**row, "participants": tuple(row["participants"])}) for row in rows}

    async def lock_alive(connection: AsyncConnection, ids: Iterable[UUID]) -> dict[UUID, inbox._Alive]:
        statement = text(
            "select id, open, tags from threads where id = any(cast(:ids as uuid[])) and status <> 'killed'"
        )
        rows = await connection.execute(statement, {"ids": list(ids)})
        return {row.id: inbox._Alive(row.open, row.tags) for row in rows}

    _put(RoutingTransaction, "resolve", resolve)
    _put(RoutingTransaction, "lock_threads", lock_threads)
    _put(inbox, "_lock_alive", lock_alive)


def release_on_turns_only() -> None:
    """Windows are filled by what has happened, not by their level."""

    async def fill(self: batch.Batches) -> Fill:
        return NO_FILL

    _put(batch.Batches, "fill", fill)


def counts_as_meant() -> None:
    """Counters move by what was meant. Only where states are read too early does that differ from what was done."""
    states_read_with_the_lock()
    close, insert = RoutingTransaction.close, RoutingTransaction.insert

    async def close_as_meant(self: RoutingTransaction, closings: Sequence[Closing]) -> set[UUID]:
        await close(self, closings)
        return {closing.message_id for closing in closings}

    async def insert_as_meant(self: RoutingTransaction, messages: Sequence[NewMessage]) -> dict[UUID, Any]:
        new = await insert(self, messages)
        now = (await self._driver.fetch(routing_sql.NOW))[0]["clock_timestamp"]
        return {message.id: new.get(message.id, now) for message in messages}

    _put(RoutingTransaction, "close", close_as_meant)
    _put(RoutingTransaction, "insert", insert_as_meant)
    _put(transaction, "_require", lambda holds, what: None)


BUGS: Mapping[str, Callable[[], None]] = {
    "ack-before-commit": ack_before_commit,
    "no-duplicate-check": no_duplicate_check,
    "unroutable-ignored": unroutable_ignored,
    "usage-booked-again": usage_booked_again,
    "states-read-with-the-lock": states_read_with_the_lock,
    "inject-without-the-threads-lock": inject_without_the_threads_lock,
    "release-on-turns-only": release_on_turns_only,
    "counts-as-meant": counts_as_meant,
}


class _SlowDriver:
    """A connection whose statements are begun late."""

    def __init__(self, driver: Driver, most: float) -> None:
        self._driver = driver
        self._most = most

    async def fetch(self, query: str, *arguments: object) -> list[Mapping[str, Any]]:
        await asyncio.sleep(random.random() ** 3 * self._most)  # seldom long
        return await self._driver.fetch(query, *arguments)

    def transaction(self, *, isolation: str) -> AbstractAsyncContextManager[None]:
        return self._driver.transaction(isolation=isolation)


def slow_down(most: float) -> None:
    """Let routers pause at most so many seconds before each statement."""
    init = RoutingTransaction.__init__

    def slowed(self: RoutingTransaction, driver: Driver) -> None:
        init(self, _SlowDriver(driver, most))

    _put(RoutingTransaction, "__init__", slowed)


def _put(owner: Any, name: str, value: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner} has no {name}: the bug has to be put elsewhere")
    setattr(owner, name, value)


def main() -> None:
    """Break this process, then run a service in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.bugs")
    parser.add_argument("script")
    parser.add_argument("--bug", choices=BUGS)
    parser.add_argument("--slow", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.bug:
        BUGS[arguments.bug]()
    if arguments.slow:
        slow_down(arguments.slow)
    runpy.run_path(arguments.script, run_name="__main__")


if __name__ == "__main__":
    main()
