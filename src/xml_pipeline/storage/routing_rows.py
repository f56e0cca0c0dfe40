"""What the router's transaction reads and writes, as plain values: no SQL and no I/O here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID


@dataclass(slots=True)
class ThreadRow:
    """A thread and its counters."""

    id: UUID
    status: str
    open: int
    slots: int
    failed: int
    participants: tuple[str, ...]
    error: str | None

    def __copy__(self) -> ThreadRow:
        """Five times as fast as `dataclasses.replace`, and done for each turn."""
        return ThreadRow(self.id, self.status, self.open, self.slots, self.failed, self.participants, self.error)


@dataclass(slots=True)
class MessageRow:
    """A message that a turn or a sweep speaks of. `overdue`: its deadline has passed by the database's clock.

    `parks`: how many of its attempts ended with it being parked.
    """

    id: UUID
    thread_id: UUID
    from_id: str
    to_id: str
    kind: str
    payload_type: str
    call_id: UUID | None
    hop: int
    mailbox: bool
    state: str
    attempt: int
    overdue: bool = False
    parks: int = 0

    @property
    def tries(self) -> int:
        """The attempts that count: one that was parked has failed at nothing."""
        return self.attempt - self.parks

    def __copy__(self) -> MessageRow:
        """For each turn."""
        return MessageRow(
            *(self.id, self.thread_id, self.from_id, self.to_id, self.kind, self.payload_type, self.call_id, self.hop),
            mailbox=self.mailbox,
            state=self.state,
            attempt=self.attempt,
            overdue=self.overdue,
            parks=self.parks,
        )


@dataclass(slots=True)
class CallRow:
    """A request and what became of it so far."""

    id: UUID
    thread_id: UUID
    caller: str
    callee: str
    parent: UUID | None
    awaited: bool
    pending: int = 0
    open: int = 1
    answered: bool = False

    def __copy__(self) -> CallRow:
        """For each turn."""
        return CallRow(
            *(self.id, self.thread_id, self.caller, self.callee, self.parent, self.awaited),
            *(self.pending, self.open, self.answered),
        )


@dataclass(frozen=True, slots=True)
class InboxRow:
    """An accepted inject, or an accepted redrive of the dead letter `letter_id`; `body` is its envelope."""

    id: UUID
    thread_id: UUID
    to_id: str
    body: bytes
    taken: bool
    letter_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class OldMessage:
    """The message that a redriven letter is about."""

    id: UUID
    from_id: str
    kind: str
    call_id: UUID | None
    answers: UUID | None
    hop: int


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A dead letter that is redriven. `message` is None where `message_id` never became one.

    `calls` were closed by its failure; `failed`: it counts among its thread's failed requests from outside.
    """

    id: UUID
    message_id: UUID | None
    calls: frozenset[UUID] = frozenset()
    failed: bool = False
    message: OldMessage | None = None


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """What a batch speaks of."""

    messages: tuple[UUID, ...]
    inbox: tuple[UUID, ...]
    turns: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a batch may touch, read after its threads were locked."""

    threads: Mapping[UUID, ThreadRow]
    messages: Mapping[UUID, MessageRow] = field(default_factory=dict)
    calls: Mapping[UUID, CallRow] = field(default_factory=dict)
    inbox: Mapping[UUID, InboxRow] = field(default_factory=dict)
    turns: frozenset[UUID] = frozenset()
    letters: Mapping[UUID, LetterRow] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be inserted; `body` is its payload. With an outcome it is closed from the beginning."""

    id: UUID
    thread_id: UUID
    slot: int
    from_id: str
    to_id: str
    kind: str
    payload_type: str
    body: bytes
    call_id: UUID | None
    answers: UUID | None
    remaining: int
    hop: int
    mailbox: bool
    state: str
    outcome: str | None = None
    redrive_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    """A message that ends. Closed only if it is still `ready` or `out`."""

    message_id: UUID
    outcome: str
    turn_id: UUID | None


@dataclass(frozen=True, slots=True)
class Postponement:
    """A message to be tried again `delay` seconds from now; only if it is still out in this attempt.

    `jitter`: the share of the delay, 0 to 1, by which the database makes it shorter or longer.
    """

    message_id: UUID
    attempt: int
    delay: float
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class Parking:
    """A message to wait until its budgets have room for so many tokens; only if it is still out in this attempt."""

    message_id: UUID
    attempt: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn as it is kept; `counted`: it had an effect."""

    id: UUID
    message_id: UUID
    attempt: int
    outcome: str
    counted: bool
    reason: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """`body` None: the payload of the message, taken over by the database itself.

    `calls` were closed by the failure; `failed`: it was counted among its thread's failed requests from outside.
    """

    id: UUID
    message_id: UUID | None
    thread_id: UUID | None
    listener: str | None
    code: str
    reason: str
    attempts: int
    body: bytes | None
    calls: tuple[UUID, ...] = ()
    failed: bool = False


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An entry of the audit log."""

    actor: str
    action: str
    subject: str
    detail: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A (listener, thread) in which a head may have to be promoted. `exclusive`: one message at a time."""

    thread_id: UUID
    to_id: str
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch makes of its snapshot."""

    closings: Sequence[Closing] = ()
    postponements: Sequence[Postponement] = ()
    parkings: Sequence[Parking] = ()
    returned: Sequence[UUID] = ()  # out, but lost by the broker: to be published again
    taken: Sequence[UUID] = ()  # inbox rows
    inserts: Sequence[NewMessage] = ()
    new_calls: Sequence[CallRow] = ()
    changed_calls: Sequence[CallRow] = ()
    threads: Sequence[ThreadRow] = ()
    turns: Sequence[TurnRow] = ()
    dead_letters: Sequence[DeadLetterRow] = ()
    audits: Sequence[AuditRow] = ()
    mailboxes: frozenset[Mailbox] = frozenset()
    listeners: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ListenerRow:
    """A listener as it is locked; `window` is the most that may be out."""

    name: str
    is_agent: bool
    paused: bool
    window: int


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """An earlier reply of a call; `body` is its payload."""

    from_id: str
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """A message that is out now. `replies`: the earlier ones of its call, oldest first.

    `waited`: seconds since it was inserted; 0 where it is published once more.
    """

    id: UUID
    thread_id: UUID
    slot: int
    from_id: str
    to_id: str
    kind: str
    body: bytes
    call_id: UUID
    remaining: int
    attempt: int
    replies: tuple[ReplyRow, ...] = ()
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Room:
    """How many more messages of a listener may go out now; `timeout` is the handler's and the margin, in seconds."""

    listener: str
    free: int
    is_agent: bool
    timeout: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was published in an attempt."""

    message_id: UUID
    attempt: int
