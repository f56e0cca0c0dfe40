"""The statements of the routing transaction on the model's database, right, and in the ways that were wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.unit.routing_model.database import Transaction, UniqueViolation, View
from tests.unit.routing_model.rows import (
    InboxEntry,
    Letter,
    Shortcut,
    Shortcuts,
    Stored,
    call_chain,
    has_room,
    letter_row,
    message_row,
    messages_of,
    released,
)
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
    NewMessage,
    Parking,
    Postponement,
    Released,
    Room,
    Sent,
    Snapshot,
    ThreadRow,
    TurnRow,
)

SHARE = 16


@dataclass(slots=True)
class ModelStore:
    """One transaction's statements."""

    transaction: Transaction
    shortcuts: Shortcuts = frozenset()
    stale: View | None = None
    stale_out: View | None = None
    turned: set[str] = field(default_factory=set)
    unlocked: set[UUID] = field(default_factory=set)

    async def resolve(self, keys: BatchKeys) -> list[UUID]:
        view = await self.transaction.statement("resolve")
        threads = {stored.new.thread_id for stored in view.pick("message", keys.messages).values()}
        injected = {row.thread_id for row in view.pick("inbox", keys.inbox).values()}
        self.unlocked = injected - threads if Shortcut.INJECT_WITHOUT_THREAD_LOCK in self.shortcuts else set()
        return list(threads | injected)

    async def lock_threads(self, thread_ids: Sequence[UUID]) -> dict[UUID, ThreadRow]:
        view = await self.transaction.statement("lock threads")
        if Shortcut.READ_WITH_THE_LOCK in self.shortcuts:
            self.stale = view
        found = {}
        for id_ in sorted(thread_ids):
            thread = view.get("thread", id_) if id_ in self.unlocked else await self._lock_row("thread", id_)
            if thread is not None:
                found[id_] = thread
        return found

    async def read(self, keys: BatchKeys, threads: Mapping[UUID, ThreadRow]) -> Snapshot:
        stored = (await self._fresh("read messages")).pick("message", keys.messages)
        messages = {id_: message_row(row, self.transaction.db.clock) for id_, row in stored.items()}
        calls = call_chain(await self._fresh("read calls"), [row.call_id for row in messages.values()])
        inbox = (await self._fresh("read inbox")).pick("inbox", keys.inbox)
        letters = await self._letters(inbox.values())
        if about := [letter.message.call_id for letter in letters.values() if letter.message is not None]:
            calls |= call_chain(await self._fresh("read calls of letters"), about)
        turns = (await self._fresh("read turns")).pick("turn", keys.turns)
        seen = () if Shortcut.TURNS_NOT_KEPT in self.shortcuts else turns
        entries = {id_: self._inbox_row(entry) for id_, entry in inbox.items()}
        return Snapshot(threads, messages, calls, entries, frozenset(seen), letters)

    async def close(self, closings: Sequence[Closing]) -> set[UUID]:
        if not closings:
            return set()
        view = await self.transaction.statement("close")
        by_id = {closing.message_id: closing for closing in closings}

        def ended(stored: Stored) -> Stored:
            closing = by_id[stored.new.id]
            self.turned.add(stored.new.to_id)
            return replace(stored, state="closed", outcome=closing.outcome, turn_id=closing.turn_id, parked_for=None)

        keys = [("message", id_) for id_ in by_id]
        closed = await self.transaction.update(view, keys, lambda row: row.state in ("ready", "out"), ended)
        return self._meant(by_id, {stored.new.id for stored in closed})

    async def postpone(self, postponements: Sequence[Postponement]) -> set[UUID]:
        if not postponements:
            return set()
        view = await self.transaction.statement("postpone")
        by_id = {one.message_id: one for one in postponements}

        def still_out(stored: Stored) -> bool:
            return stored.state == "out" and stored.attempt == by_id[stored.new.id].attempt

        def later(stored: Stored) -> Stored:
            delay = by_id[stored.new.id].delay
            due = self.transaction.db.clock + delay if delay > 0 else None
            return replace(stored, state="ready", due=due)

        changed = await self.transaction.update(view, [("message", id_) for id_ in by_id], still_out, later)
        self.turned |= {stored.new.to_id for stored in changed}
        return self._meant(by_id, {stored.new.id for stored in changed})

    async def park(self, parkings: Sequence[Parking]) -> set[UUID]:
        if not parkings:
            return set()
        view = await self.transaction.statement("park")
        by_id = {one.message_id: one for one in parkings}
        fails = Shortcut.PARKED_IS_A_FAILURE in self.shortcuts

        def still_out(stored: Stored) -> bool:
            return stored.state == "out" and stored.attempt == by_id[stored.new.id].attempt

        def parked(stored: Stored) -> Stored:
            tokens = by_id[stored.new.id].tokens
            return replace(stored, state="ready", parked_for=tokens, parks=stored.parks + (not fails))

        changed = await self.transaction.update(view, [("message", id_) for id_ in by_id], still_out, parked)
        self.turned |= {stored.new.to_id for stored in changed}
        return self._meant(by_id, {stored.new.id for stored in changed})

    async def unpark(self) -> None:
        """Not of the routing transaction: one of its own."""
        view = await self.transaction.statement("look for what is parked and has room")
        found = [row for row in messages_of(view) if row.parked_for is not None and has_room(view, row)]
        if not found:
            return
        await self.transaction.statement("lock the threads of what is parked")
        for id_ in sorted({row.new.thread_id for row in found}):
            await self._lock_row("thread", id_)
        view = await self.transaction.statement("let what is parked go on")
        keys = [("message", row.new.id) for row in found]
        await self.transaction.update(
            view,
            keys,
            lambda row: row.state == "ready" and row.parked_for is not None and has_room(view, row),
            lambda row: replace(row, parked_for=None),
        )

    async def give_back(self, message_ids: Sequence[UUID]) -> None:
        if not message_ids:
            return
        view = await self.transaction.statement("give back")
        keys = [("message", id_) for id_ in message_ids]
        lost = {"confirmed": False, "sent": float("-inf")}
        await self.transaction.update(view, keys, lambda row: row.state == "out", lambda row: replace(row, **lost))

    async def take(self, inbox_ids: Sequence[UUID]) -> set[UUID]:
        if not inbox_ids:
            return set()
        view = await self.transaction.statement("take")
        keys = [("inbox", id_) for id_ in inbox_ids]
        taken = await self.transaction.update(
            view, keys, lambda row: not row.taken, lambda row: replace(row, taken=True)
        )
        return self._meant(inbox_ids, {row.id for row in taken})

    async def insert(self, messages: Sequence[NewMessage]) -> dict[UUID, datetime]:
        if not messages:
            return {}
        view = await self.transaction.statement("insert")
        busy = Counter(stored.mailbox for stored in messages_of(view) if stored.state != "closed")
        new: set[UUID] = set()
        for message in messages:
            stored = Stored(message, self.transaction.db.next_number(), message.state, message.outcome)
            if message.state == "waiting":
                room = busy[stored.mailbox] < (1 if message.mailbox else SHARE)
                busy[stored.mailbox] += 1
                stored = replace(stored, state="ready") if room else stored
            if await self._insert_message(stored):
                new.add(message.id)
        return dict.fromkeys(self._meant([message.id for message in messages], new), self.transaction.db.now)

    async def save_calls(self, new: Sequence[CallRow], changed: Sequence[CallRow]) -> None:
        if not (new or changed):
            return
        await self.transaction.statement("save calls")
        for call in (*new, *changed):
            await self._lock_row("call", call.id)
            self.transaction.writes["call", call.id] = replace(call)

    async def save_threads(self, threads: Sequence[ThreadRow], deltas: Mapping[UUID, int]) -> dict[UUID, ThreadRow]:
        if not threads:
            return {}
        await self.transaction.statement("save threads")
        saved = {}
        for thread in threads:
            now = await self._lock_row("thread", thread.id)
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
        if not (turns or dead_letters):
            return
        await self.transaction.statement("record")
        for turn in turns:
            await self.transaction.insert_unique(("turn", turn.id), turn)
        for letter in dead_letters:
            await self.transaction.insert(("letter", letter.id), Letter(letter))

    async def promote(self, mailboxes: Collection[Mailbox]) -> None:
        if not mailboxes:
            return
        view = await self.transaction.statement("promote")
        for mailbox in sorted(mailboxes, key=lambda box: (box.thread_id, box.to_id)):
            mine = [stored for stored in messages_of(view) if stored.mailbox == mailbox]
            busy = sum(stored.state in ("ready", "out") for stored in mine)
            waiting = [("message", stored.new.id) for stored in mine if stored.state == "waiting"]
            for key in waiting[: max(0, (1 if mailbox.exclusive else SHARE) - busy)]:
                await self._claim_head(mailbox)
                await self.transaction.update(
                    view, [key], lambda row: row.state == "waiting", lambda row: replace(row, state="ready")
                )

    async def listeners_with_work(self) -> list[str]:
        view = await self.transaction.statement("find listeners with work")
        clock = self.transaction.db.clock
        due = {row.new.to_id for row in messages_of(view) if row.state == "ready" and row.is_due(clock)}
        return [name for name, row in view.table("listener").items() if name in due and not row.paused]

    async def lock_listeners(self, names: Iterable[str]) -> list[ListenerRow]:
        view = await self.transaction.statement("lock listeners")
        if Shortcut.RELEASE_ON_TURNS_ONLY in self.shortcuts:
            names = self.turned & set(names)
        if Shortcut.WINDOW_WITHOUT_LOCK in self.shortcuts:
            return [view.get("listener", name) for name in sorted(names)]
        if Shortcut.COUNT_WITH_THE_LOCK in self.shortcuts:
            self.stale_out = view
        return [await self._lock_row("listener", name) for name in sorted(names)]

    async def count_out(self, names: Sequence[str]) -> dict[str, int]:
        view = await self.transaction.statement("count what is out")
        view = view if self.stale_out is None else self.stale_out
        return Counter(s.new.to_id for s in messages_of(view) if s.state == "out" and s.new.to_id in names)

    async def release(self, rooms: Sequence[Room]) -> list[Released]:
        view = await self.transaction.statement("release")
        messages = messages_of(view)
        gone = []
        for room in rooms:
            ready = [stored for stored in messages if stored.state == "ready" and stored.new.to_id == room.listener]
            for stored in self._picked(ready, room.free):
                key = ("message", stored.new.id)
                if not self.transaction.try_lock(key):
                    continue
                now: Stored = self.transaction.current(key)
                if now.state == "ready":
                    self.transaction.writes[key] = out = _sent_out(now, self.transaction.db.clock, room.timeout)
                    gone.append(released(out))
        return gone

    async def note_sent(self, sent: Sequence[Sent]) -> None:
        if not sent:
            return
        view = await self.transaction.statement("note what is confirmed")
        for one in sent:
            key = ("message", one.message_id)
            seen = view.get(*key)
            if seen is not None and _awaits_confirm(seen, one) and self.transaction.try_lock(key):
                now: Stored = self.transaction.current(key)
                if _awaits_confirm(now, one):
                    self.transaction.writes[key] = replace(now, confirmed=True)

    def _picked(self, ready: Sequence[Stored], free: int) -> Sequence[Stored]:
        clock = self.transaction.db.clock
        if Shortcut.PARKED_IS_READY in self.shortcuts:
            return [stored for stored in ready if stored.parked_for or stored.is_due(clock)][:free]
        if Shortcut.RETRY_AT_ONCE in self.shortcuts:
            return ready[:free]
        if Shortcut.RETRY_HOLDS_ITS_PLACE in self.shortcuts:
            return [stored for stored in ready[:free] if stored.is_due(clock)]
        return [stored for stored in ready if stored.is_due(clock)][:free]

    async def _insert_message(self, stored: Stored) -> bool:
        new = stored.new
        if await self._lock_row("message", new.id) is not None:
            return False
        await self.transaction.insert_unique(("slot", (new.thread_id, new.slot)), new.id)
        if stored.state == "ready":
            await self._claim_head(stored.mailbox)
        self.transaction.writes["message", new.id] = stored
        return True

    async def _claim_head(self, mailbox: Mailbox) -> None:
        """What the partial unique index over `ready` and `out` does."""
        if not mailbox.exclusive:
            return
        await self._lock_row("head", mailbox)
        rows = View(self.transaction.db.rows, self.transaction.writes).table("message").values()
        if any(row.state in ("ready", "out") and row.mailbox == mailbox for row in rows):
            raise UniqueViolation(mailbox)

    async def _lock_row(self, table: str, id_: Hashable) -> Any:
        return await self.transaction.lock((table, id_))

    async def _fresh(self, name: str) -> View:
        view = await self.transaction.statement(name)
        return view if self.stale is None else self.stale

    def _meant(self, meant: Iterable[UUID], done: set[UUID]) -> set[UUID]:
        return set(meant) if Shortcut.COUNTS_AS_MEANT in self.shortcuts else done

    def _inbox_row(self, entry: InboxEntry) -> InboxRow:
        taken = entry.taken and Shortcut.INBOX_TAKEN_BLINDLY not in self.shortcuts
        return InboxRow(entry.id, entry.thread_id, entry.to_id, entry.body, taken, entry.letter_id)

    async def _letters(self, entries: Iterable[InboxEntry]) -> dict[UUID, LetterRow]:
        wanted = {entry.letter_id for entry in entries if entry.letter_id is not None}
        if not wanted:
            return {}
        view = await self._fresh("read letters")
        return {id_: letter_row(view, letter) for id_, letter in view.pick("letter", wanted).items()}


def _sent_out(stored: Stored, clock: float, timeout: float) -> Stored:
    attempt, deadline = stored.attempt + 1, clock + timeout
    gone = replace(stored, state="out", due=None, parked_for=None)
    return replace(gone, attempt=attempt, sent=clock, deadline=deadline, confirmed=False)


def _awaits_confirm(stored: Stored, sent: Sent) -> bool:
    return stored.state == "out" and stored.attempt == sent.attempt and not stored.confirmed
