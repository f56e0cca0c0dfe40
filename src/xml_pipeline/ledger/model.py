"""What the ledger decides from, and what it decides: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from xml_pipeline.message_bus.messages import HoldReply
from xml_pipeline.storage.ledger_rows import Booking, Budget, Handled, Hold, HoldState, RollupKey, Sums


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that decides over a batch, read under the locks of the budgets in it."""

    now: datetime
    period: int
    period_started_at: datetime | None
    budgets: Mapping[UUID, Budget]
    holds: Mapping[UUID, Hold]
    bookings: Mapping[UUID, Booking]
    handled: Mapping[UUID, Handled]


@dataclass(frozen=True, slots=True)
class Crossing:
    """A budget whose use reached a threshold, in percent."""

    budget: Budget
    threshold: int


@dataclass(slots=True)
class Changes:
    """What a batch does: replies by the position of their request in the batch, everything else in its last state.

    `settled` are the bookings of holds that were settled without a decision; they are in no other field.
    """

    replies: dict[int, HoldReply] = field(default_factory=dict)
    settled: list[Booking] = field(default_factory=list)
    granted: dict[UUID, Hold] = field(default_factory=dict)
    moved: dict[UUID, HoldState] = field(default_factory=dict)
    booked: dict[UUID, Booking] = field(default_factory=dict)
    corrected: dict[UUID, Booking] = field(default_factory=dict)
    removed: set[UUID] = field(default_factory=set)
    budgets: dict[UUID, Budget] = field(default_factory=dict)
    rollups: dict[RollupKey, Sums] = field(default_factory=dict)
    crossings: list[Crossing] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)
