"""One routing transaction on PostgreSQL: a method for each of its statements, none of which decides anything."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any, Protocol, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import routing_sql as sql
from xml_pipeline.storage.routing_rows import (
    AuditRow,
    BatchKeys,
    CallRow,
    Closing,
    DeadLetterRow,
    InboxRow,
    LetterRow,
    ListenerRow,
    Mailbox,
    MessageRow,
    NewMessage,
    OldMessage,
    Parking,
    Postponement,
    Released,
    ReplyRow,
    Room,
    Sent,
    Snapshot,
    ThreadRow,
    TurnRow,
)

MIN_WINDOW = 32
# Of one thread's messages to one tool, this many compete for its window; the others wait.
THREAD_SHARE = 16
MAX_REPLIES = 100
MAX_REPLY_BYTES = 128 * 1024
_UNIT = "\x1f"


class Driver(Protocol):
    """What is used of asyncpg's connection: SQLAlchemy's own way costs twice the time for each statement."""

    async def fetch(self, query: str, *args: object) -> list[Mapping[str, Any]]:
        """Run a statement; its rows."""
        ...

    def transaction(self, *, isolation: str) -> AbstractAsyncContextManager[None]:
        """Commits at its end, rolls back on an error."""
        ...


async def driver_of(connection: AsyncConnection) -> Driver:
    """The asyncpg connection underneath."""
    raw = await connection.get_raw_connection()
    return cast(Driver, raw.driver_connection)


@asynccontextmanager
async def routing_transaction(connection: AsyncConnection) -> AsyncIterator[RoutingTransaction]:
    """READ COMMITTED: each statement has to see what was committed before it began."""
    driver = await driver_of(connection)
    async with driver.transaction(isolation="read_committed"):
        yield RoutingTransaction(driver)


class RoutingTransaction:
    """The statements in the order in which the router uses them."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def resolve(self, keys: BatchKeys) -> list[UUID]:
        """The threads that the batch is about. A message never changes its thread, so no lock is needed."""
        rows = await self._driver.fetch(sql.RESOLVE, keys.messages, keys.inbox)
        return [row["thread_id"] for row in rows]

    async def lock_threads(self, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        """Lock in id order. The locked rows themselves are read fresh; of anything else this says nothing."""
        rows = await self._driver.fetch(sql.LOCK_THREADS, thread_ids)
        return {row["id"]: _thread(row) for row in rows}

    async def read(self, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        """The states of everything in the locked threads that the batch speaks of."""
        messages = await self._read_messages(keys.messages)
        calls = await self._read_calls({row.call_id for row in messages.values() if row.call_id is not None})
        inbox = {row["id"]: InboxRow(**row) for row in await self._fetch(sql.READ_INBOX, keys.inbox)}
        letters = await self._read_letters({row.letter_id for row in inbox.values() if row.letter_id is not None})
        calls |= await self._read_calls(_calls_of(letters) - calls.keys())
        turns = await self._fetch(sql.READ_TURNS, keys.turns)
        return Snapshot(
            threads=threads,
            messages=messages,
            calls=calls,
            inbox=inbox,
            turns=frozenset(row["id"] for row in turns),
            letters=letters,
        )

    async def close(self, closings: Sequence[Closing]) -> set[UUID]:
        """Close; returns which really were open."""
        rows = await self._fetch(
            sql.CLOSE, [c.message_id for c in closings], [c.outcome for c in closings], [c.turn_id for c in closings]
        )
        return _ids(rows)

    async def postpone(self, postponements: Sequence[Postponement]) -> set[UUID]:
        """Set aside for another try; returns which really were out in that attempt."""
        rows = await self._fetch(
            sql.POSTPONE,
            [p.message_id for p in postponements],
            [p.attempt for p in postponements],
            [p.delay for p in postponements],
            [p.jitter for p in postponements],
        )
        return _ids(rows)

    async def park(self, parkings: Sequence[Parking]) -> set[UUID]:
        """Set aside until their budgets have room; returns which really were out in that attempt."""
        rows = await self._fetch(sql.PARK, *_columns(parkings, ("message_id", "attempt", "tokens")))
        return _ids(rows)

    async def give_back(self, message_ids: Sequence[UUID]) -> None:
        """Have the next sweep publish these again, in the same attempt."""
        await self._fetch(sql.RETURNED, message_ids)

    async def take(self, inbox_ids: Sequence[UUID]) -> set[UUID]:
        """Take inbox rows; returns which nobody had taken."""
        return _ids(await self._fetch(sql.TAKE, inbox_ids))

    async def insert(self, messages: Sequence[NewMessage]) -> dict[UUID, datetime]:
        """Insert in this order; returns which were new, and when."""
        rows = await self._fetch(sql.INSERT, *_columns(messages, _MESSAGE_FIELDS), THREAD_SHARE)
        return {row["id"]: row["created_at"] for row in rows}

    async def save_calls(self, new: Sequence[CallRow], changed: Sequence[CallRow]) -> None:
        """Write the calls that were opened and those that moved."""
        await self._fetch(sql.INSERT_CALLS, *_columns(new, _CALL_FIELDS))
        await self._fetch(sql.UPDATE_CALLS, *_columns(changed, ("id", "pending", "open", "answered")))

    async def save_threads(self, threads: Sequence[ThreadRow], deltas: Mapping[UUID, int]) -> dict[UUID, ThreadRow]:
        """Move the counters by what was really done; returns the rows as they are now."""
        rows = await self._fetch(
            sql.UPDATE_THREADS,
            [t.id for t in threads],
            [deltas.get(t.id, 0) for t in threads],
            [t.slots for t in threads],
            [t.failed for t in threads],
            [_UNIT.join(t.participants) for t in threads],
            [t.error for t in threads],
        )
        return {row["id"]: _thread(row) for row in rows}

    async def record(
        self, turns: Sequence[TurnRow], dead_letters: Sequence[DeadLetterRow], audits: Sequence[AuditRow]
    ) -> None:
        """Keep what is kept for people: turns, dead letters, the audit log."""
        await self._fetch(sql.INSERT_TURNS, *_columns(turns, _TURN_FIELDS))
        closed = ["{" + ",".join(map(str, letter.calls)) + "}" for letter in dead_letters]
        failed = [letter.failed for letter in dead_letters]
        await self._fetch(sql.INSERT_DEAD_LETTERS, *_columns(dead_letters, _DEAD_LETTER_FIELDS), closed, failed)
        details = [json.dumps(dict(a.detail)) for a in audits]
        await self._fetch(sql.INSERT_AUDITS, *_columns(audits, ("actor", "action", "subject")), details)

    async def promote(self, mailboxes: Collection[Mailbox]) -> None:
        """Make the heads of these mailboxes `ready`. The threads have to be locked."""
        heads = [box for box in mailboxes if box.exclusive]
        shared = [box for box in mailboxes if not box.exclusive]
        await self._fetch(sql.PROMOTE_HEADS, *_columns(heads, ("thread_id", "to_id")))
        await self._fetch(sql.PROMOTE_SHARED, *_columns(shared, ("thread_id", "to_id")), THREAD_SHARE)

    async def listeners_with_work(self) -> list[str]:
        """Listeners that are not paused and have something due."""
        return [row["name"] for row in await self._driver.fetch(sql.LISTENERS_WITH_WORK)]

    async def lock_listeners(self, names: Iterable[str]) -> list[ListenerRow]:
        """Lock in name order; always after all locks on threads."""
        rows = await self._fetch(sql.LOCK_LISTENERS, sorted(names), MIN_WINDOW)
        return [ListenerRow(**row) for row in rows]

    async def count_out(self, names: Sequence[str]) -> dict[str, int]:
        """How many messages of each of these locked listeners are out; those with none are left out."""
        rows = await self._fetch(sql.COUNT_OUT, names)
        return {row["to_id"]: row["n"] for row in rows}

    async def release(self, rooms: Sequence[Room]) -> list[Released]:
        """Move the oldest that are due to `out`, as far as there is room."""
        columns = _columns(rooms, ("listener", "free", "is_agent", "timeout"))
        rows = await self._fetch(sql.RELEASE, *columns, THREAD_SHARE)
        replies = await self.replies(rows)
        rows.sort(key=lambda row: row["seq"])
        return [released(row, replies.get(row["id"], ())) for row in rows]

    async def replies(self, rows: Sequence[Mapping[str, Any]]) -> dict[UUID, tuple[ReplyRow, ...]]:
        """The earlier replies of the calls that these messages resume, the last hundred and 128 KiB of them."""
        resuming = [row for row in rows if row["kind"] != "request"]
        columns = [[row[name] for row in resuming] for name in ("id", "call_id", "slot")]
        found: dict[UUID, list[ReplyRow]] = defaultdict(list)
        for row in await self._fetch(sql.REPLIES, *columns, MAX_REPLIES, MAX_REPLY_BYTES):
            found[row["message_id"]].append(ReplyRow(row["from_id"], row["kind"], row["body"]))
        return {message_id: tuple(rows) for message_id, rows in found.items()}

    async def note_sent(self, sent: Sequence[Sent]) -> None:
        """Note that the broker has confirmed these. Nothing may follow that waits for a lock."""
        await self._fetch(sql.NOTE_SENT, [s.message_id for s in sent], [s.attempt for s in sent])

    async def _read_messages(self, ids: Sequence[UUID]) -> dict[UUID, MessageRow]:
        # By place, as in the statement: by name it takes five times as long.
        return {row["id"]: MessageRow(*row.values()) for row in await self._fetch(sql.READ_MESSAGES, ids)}

    async def _read_calls(self, ids: Iterable[UUID]) -> dict[UUID, CallRow]:
        return {row["id"]: CallRow(*row.values()) for row in await self._fetch(sql.READ_CALLS, list(ids))}

    async def _read_letters(self, ids: Iterable[UUID]) -> dict[UUID, LetterRow]:
        return {row["id"]: _letter(row) for row in await self._fetch(sql.READ_LETTERS, list(ids))}

    async def _fetch(self, query: str, *columns: object) -> list[Mapping[str, Any]]:
        """Run a statement over arrays; with nothing in them there is nothing to do."""
        return await self._driver.fetch(query, *columns) if columns[0] else []


def released(row: Mapping[str, Any], replies: tuple[ReplyRow, ...]) -> Released:
    """A message that is out, from its row."""
    return Released(
        id=row["id"],
        thread_id=row["thread_id"],
        slot=row["slot"],
        from_id=row["from_id"],
        to_id=row["to_id"],
        kind=row["kind"],
        body=row["body"],
        call_id=row["call_id"],
        remaining=row["remaining"],
        attempt=row["attempt"],
        replies=replies,
        waited=row.get("waited", 0.0),
    )


_MESSAGE_FIELDS = (
    *("id", "thread_id", "slot", "from_id", "to_id", "kind", "payload_type", "body", "call_id", "answers"),
    *("remaining", "hop", "mailbox", "state", "outcome", "redrive_of"),
)
_CALL_FIELDS = ("id", "thread_id", "caller", "callee", "parent", "awaited", "pending", "open", "answered")
_TURN_FIELDS = ("id", "message_id", "attempt", "outcome", "counted", "reason", "duration_ms")
_DEAD_LETTER_FIELDS = ("id", "message_id", "thread_id", "listener", "code", "reason", "attempts", "body")


def _columns(rows: Sequence[object], names: Sequence[str]) -> list[list[object]]:
    return [[getattr(row, name) for row in rows] for name in names]


def _ids(rows: Iterable[Mapping[str, Any]]) -> set[UUID]:
    return {row["id"] for row in rows}


def _calls_of(letters: Mapping[UUID, LetterRow]) -> set[UUID]:
    messages = [letter.message for letter in letters.values()]
    return {message.call_id for message in messages if message is not None and message.call_id is not None}


def _letter(row: Mapping[str, Any]) -> LetterRow:
    message = None
    if row["kind"] is not None:
        columns = (row[name] for name in ("message_id", "from_id", "kind", "call_id", "answers", "hop"))
        message = OldMessage(*columns)
    return LetterRow(row["id"], row["message_id"], frozenset(row["calls"]), row["failed"], message)


def _thread(row: Mapping[str, Any]) -> ThreadRow:
    return ThreadRow(
        id=row["id"],
        status=row["status"],
        open=row["open"],
        slots=row["slots"],
        failed=row["failed"],
        participants=tuple(row["participants"]),
        error=row["error"],
    )
