"""The rows of the ledger, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Budget:
    """The tokens of one thread. `available + held + spent = max_tokens`, always; overspent, `available` is negative."""

    thread_id: UUID
    max_tokens: int
    held: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def spent(self) -> int:
        """Tokens booked."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def available(self) -> int:
        """Tokens that a new hold may take."""
        return self.max_tokens - self.held - self.spent


class HoldState(StrEnum):
    """What became of a hold. Only `held` counts against the budget; `settled` and `expired` have a booking."""

    HELD = "held"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Hold:
    """Tokens set aside for one call."""

    call_id: UUID
    message_id: UUID
    thread_id: UUID
    agent_id: str
    model: str
    provider: str
    prompt_bound: int
    max_completion: int
    state: HoldState
    period: int
    granted_at: datetime
    expires_at: datetime

    @property
    def size(self) -> int:
        """Tokens held."""
        return self.prompt_bound + self.max_completion


class Kind(StrEnum):
    """`measured` is what the provider said; `expired` is the size of a hold that nobody settled."""

    MEASURED = "measured"
    EXPIRED = "expired"


class Booking(NamedTuple):
    """The one row of one call."""

    call_id: UUID
    message_id: UUID | None
    thread_id: UUID
    agent_id: str
    model: str
    provider: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: Decimal
    cost: Decimal
    priced: bool
    kind: Kind
    period: int
    granted_at: datetime


@dataclass(frozen=True, slots=True)
class Handled:
    """A message as the database has it: whose it is, and whether it is still being handled."""

    message_id: UUID
    thread_id: UUID
    agent_id: str
    open: bool


class RollupKey(NamedTuple):
    """What usage is summed up by; sorts, so that all writers lock rollups in one order."""

    period: int
    hour: datetime
    agent_id: str
    model: str
    provider: str


@dataclass(slots=True)
class Sums:
    """What is added to one rollup; negative where a booking is corrected."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: Decimal = Decimal(0)
    cost: Decimal = Decimal(0)

    def add(self, booking: Booking, sign: int) -> None:
        """Add one booking, or with `sign` -1 take it away."""
        self.requests += sign
        self.prompt_tokens += sign * booking.prompt_tokens
        self.completion_tokens += sign * booking.completion_tokens
        self.latency_ms += sign * booking.latency_ms
        self.cost += sign * booking.cost


class Measured(NamedTuple):
    """What a usage event says, with its cost."""

    call_id: UUID
    model: str
    provider: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: Decimal
    cost: Decimal
    priced: bool
    granted_at: datetime


class Settled(NamedTuple):
    """A hold that was settled: the place of its event, from 0, and what the event is booked under."""

    place: int
    message_id: UUID
    thread_id: UUID
    agent_id: str
    period: int


class Settlement(NamedTuple):
    """What was settled; and those budgets whose use has reached the percentage asked for, with what was added."""

    settled: list[Settled]
    budgets: list[tuple[Budget, int]]
