"""Gateways of the model for those who steer: kill, pause, begin a new period, redrive and delete dead letters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID, uuid5

from tests.unit.routing_model.broker import INGRESS, Broker
from tests.unit.routing_model.clients import Clients
from tests.unit.routing_model.database import Database, Deadlock, Transaction, UniqueViolation, View, step
from tests.unit.routing_model.rows import InboxEntry, Letter, Shortcut, Shortcuts, messages_of
from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope
from xml_pipeline.routing.items import Inject
from xml_pipeline.storage.routing_rows import ThreadRow

_KILLED = {"state": "closed", "outcome": "killed", "parked_for": None}


@dataclass(slots=True)
class Operator:
    """One request, in a process of its own."""

    db: Database
    broker: Broker
    clients: Clients
    shortcuts: Shortcuts

    async def kill(self, thread: UUID) -> None:
        """End a thread for good."""
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("lock the thread to be killed")
            if view.get("thread", thread) is None or await transaction.lock(("thread", thread)) is None:
                return
            view = await transaction.statement("close what is open")
            mine = [("message", stored.new.id) for stored in messages_of(view) if stored.new.thread_id == thread]
            await transaction.update(view, mine, lambda row: row.state != "closed", lambda row: replace(row, **_KILLED))
            view = await transaction.statement("mark the thread as killed; what is in the inbox is still to be logged")
            left = sum(row.thread_id == thread and not row.taken for row in view.table("inbox").values())
            transaction.writes["thread", thread] = replace(view.get("thread", thread), open=left, status="killed")

    async def top_up(self, budget: UUID, tokens: int) -> None:
        """Give a budget more, whether by a top-up or by another limit."""
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("top a budget up")
            keys = [("budget", budget)]
            await transaction.update(
                view, keys, lambda _: True, lambda row: replace(row, max_tokens=row.max_tokens + tokens)
            )

    async def pause(self, listener: str, paused: bool) -> None:
        """Stop or resume a listener."""
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("write down whether it is paused")
            keys = [("listener", listener)]
            await transaction.update(view, keys, lambda _: True, lambda row: replace(row, paused=paused))

    async def reset_usage(self) -> None:
        """Begin a new period of usage."""
        async with Transaction(self.db) as transaction:
            await transaction.statement("begin a new period")
            period, _ = await transaction.lock(("state", 1)) or (1, None)
            transaction.writes["state", 1] = (period + 1, self.db.now)
            transaction.writes["period", period + 1] = self.db.now

    # Dead letters

    async def redrive(self, letter_id: UUID) -> None:
        """Have a dead letter's message handled once more; asked for twice it happens once."""
        try:
            redrive_id = await self._accept(letter_id)
        except (Deadlock, UniqueViolation):
            return
        if redrive_id is not None:
            await self.broker.publish(INGRESS, Inject(redrive_id))
            await step("answer the operator")
            self.clients.answers[redrive_id] = True

    async def delete(self, letter_id: UUID) -> None:
        """Delete a dead letter for good, unless a router is still to read it."""
        async with Transaction(self.db) as transaction:
            view = await transaction.statement("lock the letter to be deleted")
            letter = view.get("letter", letter_id) and await transaction.lock(("letter", letter_id))
            if letter is None:
                return
            if letter.redrive_id is not None:
                pending = (await transaction.statement("look for its redrive")).get("inbox", letter.redrive_id)
                if not pending.taken:
                    return
            await transaction.statement("delete the letter")
            transaction.writes["letter", letter_id] = None

    async def _accept(self, letter_id: UUID) -> UUID | None:
        async with Transaction(self.db) as transaction:
            first: Letter | None = (await transaction.statement("look at the letter")).get("letter", letter_id)
            if first is None or first.row.thread_id is None:
                return None
            thread = await self._lock_thread(transaction, first.row.thread_id)
            view = await transaction.statement("lock the letter")
            letter = view.get("letter", letter_id) and await transaction.lock(("letter", letter_id))
            if letter is not None and Shortcut.REDRIVE_AS_IT_WAS_SEEN in self.shortcuts:
                letter = first
            if letter is None or (letter.redrive_id is None and thread.status == "killed"):
                return None
            if letter.redrive_id is None:
                await self._insert(transaction, thread, letter, view)
            return uuid5(letter_id, "redrive")

    async def _lock_thread(self, transaction: Transaction, id_: UUID) -> ThreadRow:
        view = await transaction.statement("lock the thread of the letter")
        if Shortcut.REDRIVE_WITHOUT_THREAD_LOCK in self.shortcuts:
            seen: ThreadRow = view.get("thread", id_)
            return seen
        locked: ThreadRow = await transaction.lock(("thread", id_))
        return locked

    async def _insert(self, transaction: Transaction, thread: ThreadRow, letter: Letter, view: View) -> None:
        row, id_ = letter.row, uuid5(letter.row.id, "redrive")
        old = view.get("message", row.message_id)
        body = encode_envelope(Envelope(API, old.new.to_id, thread.id, old.new.body))
        entry = InboxEntry(id_, thread.id, old.new.to_id, body, self.db.clock, letter_id=row.id)
        await transaction.statement("insert the redrive")
        if Shortcut.REDRIVE_AS_IT_WAS_SEEN in self.shortcuts:
            await transaction.lock(("inbox", id_))
            transaction.writes["inbox", id_] = entry
        else:
            await transaction.insert_unique(("inbox", id_), entry)
        await transaction.statement("count it as open")
        await transaction.lock(("thread", thread.id))
        transaction.writes["thread", thread.id] = replace(thread, open=thread.open + 1, status="active")
        await transaction.statement("note it in the letter")
        transaction.writes["letter", row.id] = replace(letter, redrive_id=id_)
        view = await transaction.statement("mark the message as redriven")
        keys = [("message", old.new.id)]
        await transaction.update(
            view, keys, lambda stored: stored.outcome == "failed", lambda stored: replace(stored, outcome="redriven")
        )
