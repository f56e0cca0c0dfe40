"""What the ledger decides from, and what it decides: plain values, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from xml_pipeline.ledger.rollups import Rollups
from xml_pipeline.llm.pricing import Cost, PriceUsed
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.message_bus.messages import HoldReply
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.organism.model import DEFAULT_MAX_TOKENS
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState

Pricing = Callable[[str, str, Tokens, datetime], Cost]
"""provider, model, tokens, time -> cost"""

# Of the threshold that says that nothing is left.
FULL = 100


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of budgets."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    budgets: Budgets = field(default_factory=Budgets)

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The percents of use to be told of: those that are configured, and that nothing is left."""
        return tuple(sorted({*self.budgets.thresholds, FULL}))


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that decides over a batch, read under the locks of the budgets in it.

    `budgets`: every node on the path of every call, by id. `periods`: when each began, the oldest first.
    """

    now: datetime
    period: int
    periods: tuple[tuple[int, datetime], ...]
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

    `corrected` bookings take the place of those in `replaced`; those in `removed` go.
    `settled` are the bookings of holds that were settled without a decision; they are in no other field.
    `prices`: those that bookings were charged by, by id. `kills`: threads that end, since a budget does not allow a
    call and the configuration wants that.
    """

    replies: dict[int, HoldReply] = field(default_factory=dict)
    settled: list[Booking] = field(default_factory=list)
    granted: dict[UUID, Hold] = field(default_factory=dict)
    moved: dict[UUID, HoldState] = field(default_factory=dict)
    booked: dict[UUID, Booking] = field(default_factory=dict)
    corrected: dict[UUID, Booking] = field(default_factory=dict)
    removed: dict[UUID, Booking] = field(default_factory=dict)
    replaced: dict[UUID, Booking] = field(default_factory=dict)
    budgets: dict[UUID, Budget] = field(default_factory=dict)
    rollups: Rollups = field(default_factory=Rollups)
    prices: dict[int, PriceUsed] = field(default_factory=dict)
    crossings: list[Crossing] = field(default_factory=list)
    kills: set[UUID] = field(default_factory=set)
    refused: list[tuple[int, str]] = field(default_factory=list)
