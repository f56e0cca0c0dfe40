"""A thread in the middle of its life, for tests of the router's decisions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4, uuid5

from tests.support import routing as given
from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope, Kind
from xml_pipeline.organism.model import Limits, Organism
from xml_pipeline.routing.decisions import Decision, decide
from xml_pipeline.routing.items import Inject, Item
from xml_pipeline.storage.routing_rows import (
    CallRow,
    Changes,
    DeadLetterRow,
    InboxRow,
    LetterRow,
    MessageRow,
    NewMessage,
    OldMessage,
    Snapshot,
    ThreadRow,
)

THREAD = uuid4()


@dataclass
class Scene:
    """A thread with messages and calls, to decide on."""

    organism: Organism
    thread: ThreadRow = field(default_factory=lambda: ThreadRow(THREAD, "active", 0, 10, 0, (API,), None))
    messages: dict[UUID, MessageRow] = field(default_factory=dict)
    calls: dict[UUID, CallRow] = field(default_factory=dict)
    inbox: dict[UUID, InboxRow] = field(default_factory=dict)
    turns: frozenset[UUID] = frozenset()
    letters: dict[UUID, LetterRow] = field(default_factory=dict)

    def call(self, caller: str, callee: str, parent: CallRow | None = None, **fields: object) -> CallRow:
        """A call with nothing open."""
        awaited = self.organism.listeners[callee].responds
        call = CallRow(uuid4(), THREAD, caller, callee, None if parent is None else parent.id, awaited, open=0)
        if parent is not None and awaited:
            parent.pending += 1
        self.calls[call.id] = replace(call, **fields)  # type: ignore[arg-type]
        return self.calls[call.id]

    def out(self, call: CallRow, kind: Kind = Kind.REQUEST, tag: str = "x", **fields: object) -> MessageRow:
        """A message that the call's callee is handling."""
        call.open += 1
        self.thread.open += 1
        row = MessageRow(
            *(uuid4(), THREAD, call.caller, call.callee, kind.value, tag, call.id, 1),
            mailbox=True,
            state="out",
            attempt=1,
            overdue=True,
        )
        self.messages[row.id] = replace(row, **fields)  # type: ignore[arg-type]
        return self.messages[row.id]

    def accepted(self, to: str, *, body: bytes | None = None, taken: bool = False) -> UUID:
        """An accepted inject."""
        made = given.inject(to, THREAD)
        self.inbox[made.id] = InboxRow(made.id, THREAD, to, body or made.body, taken)
        self.thread.open += not taken
        return made.id

    def letter(self, letter: DeadLetterRow, *, kind: Kind = Kind.REQUEST, answers: UUID | None = None) -> LetterRow:
        """A dead letter about a message that was in this scene, or about none."""
        message = self.messages.get(letter.message_id) if letter.message_id else None
        old = None
        if message is not None:
            old = OldMessage(message.id, message.from_id, kind.value, message.call_id, answers, message.hop)
        row = LetterRow(letter.id, letter.message_id, frozenset(letter.calls), letter.failed, old)
        self.letters[row.id] = row
        return row

    def redrive(self, letter: LetterRow, to: str, payload: bytes | None = None) -> Inject:
        """Have a letter redriven, as a gateway accepts it."""
        id_ = uuid5(letter.id, "redrive")
        body = encode_envelope(Envelope(API, to, THREAD, payload or given.question(to)))
        self.inbox[id_] = InboxRow(id_, THREAD, to, body, taken=False, letter_id=letter.id)
        self.thread.open += 1
        return Inject(id_)

    def apply(self, changes: Changes) -> None:
        """Go on from what was decided, with all that was inserted out at once."""
        self.calls |= {call.id: replace(call) for call in (*changes.new_calls, *changes.changed_calls)}
        for thread in changes.threads:
            self.thread = replace(thread)
        for closing in changes.closings:
            self.messages[closing.message_id].state = "closed"
        for id_ in changes.taken:
            self.inbox[id_] = replace(self.inbox[id_], taken=True)
        for new in changes.inserts:
            about = (new.id, THREAD, new.from_id, new.to_id, new.kind, new.payload_type, new.call_id, new.hop)
            state = "closed" if new.state == "closed" else "out"
            self.messages[new.id] = MessageRow(*about, mailbox=new.mailbox, state=state, attempt=1, overdue=True)

    def decide(self, *items: Item) -> Decision:
        """Decide on a snapshot of it."""
        snapshot = Snapshot({THREAD: self.thread}, self.messages, self.calls, self.inbox, self.turns, self.letters)
        return decide(snapshot, items, self.organism, given.TagCheck())

    def changes(self, *items: Item) -> Changes:
        """The same, the changes alone."""
        return self.decide(*items).changes


def four_listeners(**settings: object) -> Scene:
    """Two agents and two tools, of which one takes no errors and one never answers; `settings` are limits."""
    return Scene(
        given.organism(
            given.listener("ann", peers=("bob", "log"), attempts=2),
            given.listener("bob", peers=("ann",), attempts=1, agent=False),
            given.listener("shy", peers=("bob",), attempts=1, accepts_errors=False, accepts_huh=False),
            given.listener("log", agent=False, responds=False, attempts=1),
            limits=Limits(**settings),  # type: ignore[arg-type]
        )
    )


def only(changes: Changes) -> NewMessage:
    """The one message that was inserted."""
    (message,) = changes.inserts
    return message


def thread_in(changes: Changes) -> ThreadRow:
    """The one thread that was changed."""
    (thread,) = changes.threads
    return thread
