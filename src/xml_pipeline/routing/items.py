"""What a router is given to decide on: from ingress, from its own sweep, from the broker's dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from xml_pipeline.envelope.model import Turn


@dataclass(frozen=True, slots=True)
class Inject:
    """An accepted inject: the inbox row of this id, whatever the bytes that pointed at it say."""

    message_id: UUID
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class TurnReport:
    """What a worker reports of one run of a handler; `traceparent`: the span that it says that was."""

    turn: Turn
    body: bytes = b""
    traceparent: str | int | None = None


@dataclass(frozen=True, slots=True)
class Overdue:
    """An `out` message whose deadline has passed and which nobody seems to hold."""

    message_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Returned:
    """An assignment that the broker dead-lettered: a lost delivery, not an end."""

    message_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Orphaned:
    """A message whose listener is no longer configured."""

    message_id: UUID


@dataclass(frozen=True, slots=True)
class Junk:
    """Bytes that no router can read or route. `inbox_id`: the accepted inject that they are."""

    id: UUID
    reason: str
    body: bytes
    code: str = "unreadable"
    inbox_id: UUID | None = None


Item = Inject | TurnReport | Overdue | Returned | Orphaned | Junk
