"""The snapshot of a batch while its items are applied one after the other, and the record of what changes."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from xml_pipeline.envelope.codec import payload_tag
from xml_pipeline.envelope.model import API, SYSTEM, Kind
from xml_pipeline.organism.model import Listener, Organism
from xml_pipeline.routing.items import Item
from xml_pipeline.storage.routing_rows import (
    AuditRow,
    CallRow,
    Changes,
    Closing,
    DeadLetterRow,
    Mailbox,
    MessageRow,
    NewMessage,
    Parking,
    Postponement,
    Snapshot,
    ThreadRow,
    TurnRow,
)


class PayloadCheck(Protocol):
    """What is wrong with a payload, None for nothing."""

    def request_fault(self, to: str, payload: bytes) -> str | None:
        """Of a request to this listener."""
        ...

    def response_fault(self, responder: str, payload: bytes) -> str | None:
        """Of a response of this listener."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log that changed nothing, or less than its sender meant."""

    event: str
    message_id: UUID
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something for the live feed: an error as a person should see it."""

    thread_id: UUID
    agent: str
    error: str


@dataclass(slots=True)
class Draft:
    """A message about to be inserted; its slot and state follow from the thread."""

    id: UUID
    thread_id: UUID
    from_id: str
    to_id: str
    kind: Kind
    payload: bytes
    call_id: UUID | None
    hop: int
    answers: UUID | None = None
    remaining: int = 0
    redrive_of: UUID | None = None


@dataclass(slots=True)
class Working:
    """Mutable, of one try of one transaction. `item` is applied now; `causes`: what each insert came of."""

    snapshot: Snapshot
    organism: Organism
    check: PayloadCheck
    threads: dict[UUID, ThreadRow] = field(default_factory=dict)
    messages: dict[UUID, MessageRow] = field(default_factory=dict)
    calls: dict[UUID, CallRow] = field(default_factory=dict)
    seen_turns: set[UUID] = field(default_factory=set)
    taken: dict[UUID, None] = field(default_factory=dict)
    closings: dict[UUID, Closing] = field(default_factory=dict)
    postponements: dict[UUID, Postponement] = field(default_factory=dict)
    parkings: dict[UUID, Parking] = field(default_factory=dict)
    returned: dict[UUID, None] = field(default_factory=dict)
    inserts: list[NewMessage] = field(default_factory=list)
    new_calls: dict[UUID, CallRow] = field(default_factory=dict)
    changed_calls: dict[UUID, CallRow] = field(default_factory=dict)
    changed_threads: dict[UUID, ThreadRow] = field(default_factory=dict)
    turns: list[TurnRow] = field(default_factory=list)
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    audits: list[AuditRow] = field(default_factory=list)
    mailboxes: set[Mailbox] = field(default_factory=set)
    listeners: set[str] = field(default_factory=set)
    item: Item | None = None
    causes: dict[UUID, Item] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    mishaps: list[Mishap] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen_turns.update(self.snapshot.turns)

    def listener(self, name: str) -> Listener | None:
        """The listener of this name, if it is configured."""
        return self.organism.listeners.get(name)

    def thread(self, thread_id: UUID) -> ThreadRow:
        """The thread as it stands now, to be changed in place."""
        if thread_id not in self.changed_threads:
            self.changed_threads[thread_id] = copy(self.snapshot.threads[thread_id])
        return self.changed_threads[thread_id]

    def message(self, message_id: UUID) -> MessageRow | None:
        """A handled message as it stands now."""
        if message_id not in self.messages:
            row = self.snapshot.messages.get(message_id)
            if row is None:
                return None
            self.messages[message_id] = copy(row)
        return self.messages[message_id]

    def call(self, call_id: UUID) -> CallRow:
        """The call as it stands now, to be changed in place."""
        if call_id in self.new_calls:
            return self.new_calls[call_id]
        if call_id not in self.changed_calls:
            self.changed_calls[call_id] = copy(self.snapshot.calls[call_id])
        return self.changed_calls[call_id]

    def parent(self, call: CallRow) -> CallRow | None:
        """The call in which this one was opened, None for one from `api`."""
        return None if call.parent is None else self.call(call.parent)

    def take(self, inbox_id: UUID, thread_id: UUID) -> None:
        """Take an inbox row: what it counted as open is for the message to count."""
        self.taken[inbox_id] = None
        self.thread(thread_id).open -= 1

    def close(self, message: MessageRow, outcome: str, turn_id: UUID | None) -> None:
        """End a message."""
        self.closings[message.id] = Closing(message.id, outcome, turn_id)
        self.postponements.pop(message.id, None)
        self.parkings.pop(message.id, None)
        self.returned.pop(message.id, None)
        message.state = "closed"
        self.thread(message.thread_id).open -= 1
        self._touch(Mailbox(message.thread_id, message.to_id, message.mailbox))
        if message.call_id is not None:
            self.call(message.call_id).open -= 1

    def postpone(self, message: MessageRow, delay: float, jitter: float) -> None:
        """Have a message tried again `delay` seconds from now, give or take the share `jitter` of it."""
        self.postponements[message.id] = Postponement(message.id, message.attempt, delay, jitter)
        self.returned.pop(message.id, None)
        message.state = "ready"
        self.listeners.add(message.to_id)

    def park(self, message: MessageRow, tokens: int) -> None:
        """Have a message wait at the head of its mailbox until its budgets have room for so many tokens."""
        self.parkings[message.id] = Parking(message.id, message.attempt, tokens)
        self.returned.pop(message.id, None)
        message.state = "ready"
        message.parks += 1
        self.listeners.add(message.to_id)

    def insert(self, draft: Draft, *, outcome: str | None = None) -> None:
        """Append to the thread. What goes to `api`, or has an outcome already, is closed as it is inserted."""
        thread = self.thread(draft.thread_id)
        thread.slots += 1
        outcome = "delivered" if draft.to_id == API else outcome
        listener = self.listener(draft.to_id)
        mailbox = listener is not None and listener.is_agent
        self.inserts.append(_new_message(draft, thread.slots, mailbox, outcome))
        if self.item is not None:
            self.causes[draft.id] = self.item
        self._participate(thread, draft.from_id, draft.to_id)
        if outcome is None:
            thread.open += 1
            self._touch(Mailbox(draft.thread_id, draft.to_id, mailbox))

    def changes(self) -> Changes:
        """All that is to be written."""
        return Changes(
            closings=tuple(self.closings.values()),
            postponements=tuple(self.postponements.values()),
            parkings=tuple(self.parkings.values()),
            returned=tuple(self.returned),
            taken=tuple(self.taken),
            inserts=tuple(self.inserts),
            new_calls=tuple(self.new_calls.values()),
            changed_calls=tuple(self.changed_calls.values()),
            threads=tuple(self.changed_threads.values()),
            turns=tuple(self.turns),
            dead_letters=tuple(self.dead_letters),
            audits=tuple(self.audits),
            mailboxes=frozenset(self.mailboxes),
            listeners=frozenset(self.listeners),
        )

    def _touch(self, mailbox: Mailbox) -> None:
        self.mailboxes.add(mailbox)
        self.listeners.add(mailbox.to_id)

    @staticmethod
    def _participate(thread: ThreadRow, *names: str) -> None:
        for name in names:
            if name != SYSTEM and name not in thread.participants:
                thread.participants = (*thread.participants, name)


def _new_message(draft: Draft, slot: int, mailbox: bool, outcome: str | None) -> NewMessage:
    return NewMessage(
        id=draft.id,
        thread_id=draft.thread_id,
        slot=slot,
        from_id=draft.from_id,
        to_id=draft.to_id,
        kind=draft.kind.value,
        payload_type=payload_tag(draft.payload),
        body=draft.payload,
        call_id=draft.call_id,
        answers=draft.answers,
        remaining=draft.remaining,
        hop=draft.hop,
        mailbox=mailbox,
        state="waiting" if outcome is None else "closed",
        outcome=outcome,
        redrive_of=draft.redrive_of,
    )
