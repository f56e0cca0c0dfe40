"""Rows as the model keeps them, and the shortcuts that were tried first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from tests.unit.routing_model.database import View
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.routing_rows import (
    CallRow,
    DeadLetterRow,
    LetterRow,
    Mailbox,
    MessageRow,
    NewMessage,
    OldMessage,
    Released,
)


class Shortcut(StrEnum):
    """What loses or doubles."""

    READ_WITH_THE_LOCK = "states are read in the statement that locks"
    INJECT_WITHOUT_THREAD_LOCK = "an inject does not lock its thread"
    RELEASE_ON_TURNS_ONLY = "windows are filled only when a turn comes"
    COUNTS_AS_MEANT = "counters move by what was meant, not by what RETURNING says"
    WINDOW_WITHOUT_LOCK = "what is out is counted without the listener's lock"
    COUNT_WITH_THE_LOCK = "what is out is counted in the statement that locks the listener"
    RETRY_HOLDS_ITS_PLACE = "the oldest are picked first, and then those of them that are due"
    RETRY_AT_ONCE = "what is set aside for later is released before its time"
    ACK_BEFORE_COMMIT = "a router acknowledges what it took before it has committed"
    UNCONFIRMED_FORGOTTEN = "what the broker never confirmed is not published again"
    OVERDUE_FORGOTTEN = "what the broker confirmed is never looked for again"
    TURNS_NOT_KEPT = "a turn that came before is routed again"
    INBOX_TAKEN_BLINDLY = "an inject that was taken is routed again"
    REDRIVE_WITHOUT_THREAD_LOCK = "a redrive does not lock its thread"
    REDRIVE_AS_IT_WAS_SEEN = "whether a letter was redriven is not read under its lock"
    INJECT_COUNTED_AS_MEANT = "a gateway counts what it was asked to insert, not what it inserted"
    HOLDS_READ_WITH_THE_LOCK = "holds and bookings are read in the statement that locks the budgets"
    BUDGETS_WITHOUT_LOCK = "budgets are read without their locks"
    SETTLED_IN_ANY_STATE = "the usual statement settles a hold that is not held"
    PARKED_FORGOTTEN = "what is parked is never looked for again"
    PARKED_IS_READY = "what is parked is released like all that is ready"
    PARKED_IS_A_FAILURE = "an attempt that was parked is one of those that there are"
    USAGE_ACK_BEFORE_COMMIT = "a usage service acknowledges what it took before it has committed"


Shortcuts = frozenset[Shortcut]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message. Times are the database's clock, in seconds."""

    new: NewMessage
    seq: int
    state: str
    outcome: str | None = None
    attempt: int = 0
    turn_id: UUID | None = None
    due: float | None = None
    sent: float = 0.0
    deadline: float = 0.0
    confirmed: bool = False
    parked_for: int | None = None
    parks: int = 0

    @property
    def mailbox(self) -> Mailbox:
        """Where it waits."""
        return Mailbox(self.new.thread_id, self.new.to_id, self.new.mailbox)

    def is_due(self, clock: float) -> bool:
        """Whether it may go out, ready as it is."""
        return self.parked_for is None and (self.due is None or self.due <= clock)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, and the redrive of it that was accepted."""

    row: DeadLetterRow
    redrive_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class InboxEntry:
    """What a gateway accepted: an inject, or the redrive of a letter."""

    id: UUID
    thread_id: UUID
    to_id: str
    body: bytes
    created: float
    taken: bool = False
    letter_id: UUID | None = None


def messages_of(view: View) -> list[Stored]:
    """All messages in the order in which they were routed."""
    return sorted(view.table("message").values(), key=lambda row: row.seq)


def message_row(stored: Stored, clock: float) -> MessageRow:
    """A message as the router reads it."""
    new = stored.new
    return MessageRow(
        *(new.id, new.thread_id, new.from_id, new.to_id, new.kind, new.payload_type, new.call_id, new.hop),
        mailbox=new.mailbox,
        state=stored.state,
        attempt=stored.attempt,
        overdue=stored.state == "out" and stored.deadline < clock,
        parks=stored.parks,
    )


def has_room(view: View, stored: Stored) -> bool:
    """Whether all budgets of a parked message's call have room for it."""
    thread: Budget | None = view.get("budget", stored.new.thread_id)
    if thread is None or stored.parked_for is None:
        return True
    path = (thread, *view.pick("budget", thread.ancestors).values())
    return all(budget.spent + stored.parked_for <= budget.max_tokens for budget in path)


def released(stored: Stored) -> Released:
    """A message as it goes to the broker."""
    new, call_id = stored.new, stored.new.call_id
    if call_id is None:
        raise ValueError("a message to api was released")
    return Released(
        *(new.id, new.thread_id, new.slot, new.from_id, new.to_id, new.kind, new.body, call_id),
        remaining=new.remaining,
        attempt=stored.attempt,
    )


def call_chain(view: View, ids: Iterable[UUID | None]) -> dict[UUID, CallRow]:
    """These calls and their callers' up to `api`."""
    chain: dict[UUID, CallRow] = {}
    for start in ids:
        id_ = start
        while id_ is not None and id_ not in chain:
            call: CallRow = view.get("call", id_)
            chain[id_] = call
            id_ = call.parent
    return chain


def letter_row(view: View, letter: Letter) -> LetterRow:
    """A letter as the router reads it, with the message that it is about."""
    row = letter.row
    stored: Stored | None = view.get("message", row.message_id)
    message = None
    if stored is not None:
        new = stored.new
        message = OldMessage(new.id, new.from_id, new.kind, new.call_id, new.answers, new.hop)
    return LetterRow(row.id, row.message_id, frozenset(row.calls), row.failed, message)
