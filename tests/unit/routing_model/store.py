"""The statements of the routing transaction on the model's database, right, and in the ways that were wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

from tests.unit.routing_model.database import Database, Key, Transaction
from xml_pipeline.storage.routing_rows import (
    AuditRow,
    BatchKeys,
    CallRow,
    Closing,
    DeadLetterRow,
    InboxRow,
    ListenerRow,
    Mailbox,
    MessageRow,
    NewMessage,
    Postponement,
    Released,
    Room,
    Sent,
    Snapshot,
    ThreadRow,
    TurnRow,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARE = 16


class Shortcut(StrEnum):
    """What was tried first, and loses or doubles."""

    READ_WITH_THE_LOCK = "states are read in the statement that locks"
    INJECT_WITHOUT_THREAD_LOCK = "an inject does not lock its thread"
    RELEASE_ON_TURNS_ONLY = "windows are filled only when a turn comes"
    COUNTS_AS_MEANT = "counters move by what was meant, not by what RETURNING says"
    WINDOW_WITHOUT_LOCK = "what is out is counted without the listener's lock"
    COUNT_WITH_THE_LOCK = "what is out is counted in the statement that locks the listener"


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the model keeps it."""

    new: NewMessage
    seq: int
    state: str
    outcome: str | None = None
    attempt: int = 0
    turn_id: UUID | None = None

    @property
    def mailbox(self) -> Mailbox:
        """Where it waits."""
        return Mailbox(self.new.thread_id, self.new.to_id, self.new.mailbox)


def messages_of(rows: Mapping[Key, Any]) -> list[Stored]:
    """All messages in the order in which they were routed."""
    return sorted((row for key, row in rows.items() if key[0] == "message"), key=lambda row: row.seq)


@dataclass(slots=True)
class ModelStore:
    """One transaction's statements."""

    db: Database
    shortcuts: frozenset[Shortcut] = frozenset()
    stale: Mapping[Key, Any] | None = None
    stale_out: Mapping[Key, Any] | None = None
    turned: set[str] = field(default_factory=set)
    transaction: Transaction = field(init=False)

    def __post_init__(self) -> None:
        self.transaction = Transaction(self.db)

    async def resolve(self, keys: BatchKeys) -> list[UUID]:
        rows = await self.transaction.statement()
        threads = {rows["message", id_].new.thread_id for id_ in keys.messages if ("message", id_) in rows}
        injected = {rows["inbox", id_].thread_id for id_ in keys.inbox if ("inbox", id_) in rows}
        self._unlocked = injected - threads if Shortcut.INJECT_WITHOUT_THREAD_LOCK in self.shortcuts else set()
        return list(threads | injected)

    async def lock_threads(self, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        rows = await self.transaction.statement()
        if Shortcut.READ_WITH_THE_LOCK in self.shortcuts:
            self.stale = rows
        found = {}
        for id_ in sorted(thread_ids):
            key = ("thread", id_)
            found[id_] = rows[key] if id_ in self._unlocked else await self.transaction.lock(key)
        return found

    async def read(self, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        messages = _pick(await self._fresh(), "message", keys.messages)
        found = {id_: _message_row(stored) for id_, stored in messages.items()}
        calls = _chain(await self._fresh(), [row.call_id for row in found.values()])
        inbox = _pick(await self._fresh(), "inbox", keys.inbox)
        turns = _pick(await self._fresh(), "turn", keys.turns)
        return Snapshot(threads, found, calls, inbox, frozenset(turns))

    async def close(self, closings: Sequence[Closing]) -> set[UUID]:
        rows = await self.transaction.statement()
        by_id = {closing.message_id: closing for closing in closings}

        def ended(stored: Stored) -> Stored:
            closing = by_id[stored.new.id]
            self.turned.add(stored.new.to_id)
            return replace(stored, state="closed", outcome=closing.outcome, turn_id=closing.turn_id)

        keys = [("message", id_) for id_ in by_id]
        closed = await self.transaction.update(rows, keys, lambda row: row.state in ("ready", "out"), ended)
        return self._meant(by_id, {stored.new.id for stored in closed})

    async def postpone(self, postponements: Sequence[Postponement]) -> set[UUID]:
        rows = await self.transaction.statement()
        attempts = {one.message_id: one.attempt for one in postponements}

        def still_out(stored: Stored) -> bool:
            return stored.state == "out" and stored.attempt == attempts[stored.new.id]

        keys = [("message", id_) for id_ in attempts]
        changed = await self.transaction.update(rows, keys, still_out, lambda row: replace(row, state="ready"))
        self.turned |= {stored.new.to_id for stored in changed}
        return self._meant(attempts, {stored.new.id for stored in changed})

    async def give_back(self, message_ids: Sequence[UUID]) -> None:
        """Workers of the model find what is out by themselves."""

    async def take(self, inbox_ids: Sequence[UUID]) -> set[UUID]:
        rows = await self.transaction.statement()
        keys = [("inbox", id_) for id_ in inbox_ids]
        taken = await self.transaction.update(
            rows, keys, lambda row: not row.taken, lambda row: replace(row, taken=True)
        )
        return self._meant(inbox_ids, {row.id for row in taken})

    async def insert(self, messages: Sequence[NewMessage]) -> dict[UUID, datetime]:
        rows = await self.transaction.statement()
        busy = Counter(stored.mailbox for stored in messages_of(rows) if stored.state != "closed")
        new: set[UUID] = set()
        for message in messages:
            key = ("message", message.id)
            if await self.transaction.lock(key) is not None:
                continue
            await self._claim_slot(message)
            self.db.clock += 1
            stored = Stored(message, self.db.clock, message.state, message.outcome)
            if message.state == "waiting" and busy[stored.mailbox] < (1 if message.mailbox else SHARE):
                await self._claim_head(stored.mailbox)
                stored = replace(stored, state="ready")
            busy[stored.mailbox] += 1
            self.transaction.writes[key] = stored
            new.add(message.id)
        return dict.fromkeys(self._meant([message.id for message in messages], new), NOW)

    async def save_calls(self, new: Sequence[CallRow], changed: Sequence[CallRow]) -> None:
        await self.transaction.statement()
        for call in (*new, *changed):
            await self.transaction.lock(("call", call.id))
            self.transaction.writes["call", call.id] = replace(call)

    async def save_threads(self, threads: Sequence[ThreadRow], deltas: Mapping[UUID, int]) -> dict[UUID, ThreadRow]:
        await self.transaction.statement()
        saved = {}
        for thread in threads:
            now = await self.transaction.lock(("thread", thread.id))
            open_ = now.open + deltas.get(thread.id, 0)
            ended = "error" if thread.failed else "completed"
            status = now.status if now.status == "killed" else "active" if open_ else ended
            saved[thread.id] = replace(thread, open=open_, status=status)
            self.transaction.writes["thread", thread.id] = saved[thread.id]
        if Shortcut.COUNTS_AS_MEANT in self.shortcuts:
            return {thread.id: thread for thread in threads}
        return saved

    async def record(
        self, turns: Sequence[TurnRow], dead_letters: Sequence[DeadLetterRow], audits: Sequence[AuditRow]
    ) -> None:
        await self.transaction.statement()
        for turn in turns:
            key: Key = ("turn", turn.id)
            await self.transaction.claim(key, partial(self.db.rows.__contains__, key))
            self.transaction.writes[key] = turn

    async def promote(self, mailboxes: Collection[Mailbox]) -> None:
        rows = await self.transaction.statement()
        for mailbox in sorted(mailboxes, key=lambda box: (box.thread_id, box.to_id)):
            mine = [stored for stored in messages_of(rows) if stored.mailbox == mailbox]
            busy = sum(stored.state in ("ready", "out") for stored in mine)
            waiting = [("message", stored.new.id) for stored in mine if stored.state == "waiting"]
            heads = waiting[: max(0, (1 if mailbox.exclusive else SHARE) - busy)]
            for key in heads:
                await self._claim_head(mailbox)
                await self.transaction.update(
                    rows, [key], lambda row: row.state == "waiting", lambda row: replace(row, state="ready")
                )

    async def lock_listeners(self, names: Iterable[str]) -> list[ListenerRow]:
        rows = await self.transaction.statement()
        if Shortcut.RELEASE_ON_TURNS_ONLY in self.shortcuts:
            names = self.turned & set(names)
        if Shortcut.WINDOW_WITHOUT_LOCK in self.shortcuts:
            return [rows["listener", name] for name in sorted(names)]
        if Shortcut.COUNT_WITH_THE_LOCK in self.shortcuts:
            self.stale_out = rows
        return [await self.transaction.lock(("listener", name)) for name in sorted(names)]

    async def count_out(self, names: Sequence[str]) -> dict[str, int]:
        rows = await self.transaction.statement() if self.stale_out is None else self.stale_out
        return Counter(s.new.to_id for s in messages_of(rows) if s.state == "out" and s.new.to_id in names)

    async def release(self, rooms: Sequence[Room]) -> list[Released]:
        rows = await self.transaction.statement()
        released = []
        for room in rooms:
            ready = [s for s in messages_of(rows) if s.state == "ready" and s.new.to_id == room.listener]
            for stored in ready[: room.free]:
                key = ("message", stored.new.id)
                if not self.transaction.try_lock(key):
                    continue
                now = self.transaction.writes.get(key) or self.db.rows[key]
                if now.state == "ready":
                    out = replace(now, state="out", attempt=now.attempt + 1)
                    self.transaction.writes[key] = out
                    released.append(_released(out))
        return released

    async def note_sent(self, sent: Sequence[Sent]) -> None:
        """Workers of the model find what is out by themselves."""

    async def _fresh(self) -> Mapping[Key, Any]:
        rows = await self.transaction.statement()
        return rows if self.stale is None else self.stale

    async def _claim_slot(self, message: NewMessage) -> None:
        def taken() -> bool:
            others = messages_of({**self.db.rows, **self.transaction.writes})
            return any((s.new.thread_id, s.new.slot) == (message.thread_id, message.slot) for s in others)

        await self.transaction.claim(("slot", (message.thread_id, message.slot)), taken)

    async def _claim_head(self, mailbox: Mailbox) -> None:
        def taken() -> bool:
            others = messages_of({**self.db.rows, **self.transaction.writes})
            return any(s.mailbox == mailbox and s.state in ("ready", "out") for s in others)

        if mailbox.exclusive:
            await self.transaction.claim(("head", mailbox), taken)

    def _meant(self, meant: Iterable[UUID], done: set[UUID]) -> set[UUID]:
        return set(meant) if Shortcut.COUNTS_AS_MEANT in self.shortcuts else done

    _unlocked: set[UUID] = field(default_factory=set)


def _pick(rows: Mapping[Key, Any], table: str, ids: Iterable[UUID]) -> dict[UUID, Any]:
    return {id_: rows[table, id_] for id_ in ids if (table, id_) in rows}


def _chain(rows: Mapping[Key, Any], ids: Iterable[UUID | None]) -> dict[UUID, CallRow]:
    chain: dict[UUID, CallRow] = {}
    for start in ids:
        id_ = start
        while id_ is not None and id_ not in chain:
            chain[id_] = rows["call", id_]
            id_ = chain[id_].parent
    return chain


def _message_row(stored: Stored) -> MessageRow:
    new = stored.new
    return MessageRow(
        *(new.id, new.thread_id, new.from_id, new.to_id, new.kind, new.payload_type, new.call_id, new.hop),
        mailbox=new.mailbox,
        state=stored.state,
        attempt=stored.attempt,
        overdue=True,
    )


def _released(stored: Stored) -> Released:
    new, call_id = stored.new, stored.new.call_id
    if call_id is None:
        raise ValueError("a message to api was released")
    return Released(
        *(new.id, new.thread_id, new.slot, new.from_id, new.to_id, new.kind, new.body, call_id),
        remaining=new.remaining,
        attempt=stored.attempt,
    )


def new_inbox_row(id_: UUID, thread_id: UUID, to_id: str, body: bytes) -> InboxRow:
    """An accepted inject."""
    return InboxRow(id_, thread_id, to_id, body, taken=False)
