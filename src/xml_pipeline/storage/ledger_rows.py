"""The rows of the ledger, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from xml_pipeline.llm.tokens import Tokens


class HoldState(StrEnum):
    """What becomes of a hold. Only `held` counts against budgets; `expired` has a booking; a settled one is deleted."""

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
    """`measured`: what the provider said. `estimated`: a bound, since it said nothing. `expired`: an unsettled hold."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    EXPIRED = "expired"


class Booking(NamedTuple):
    """The one row of one call. `latency_us`: microseconds, None where nobody measured it."""

    call_id: UUID
    message_id: UUID | None
    thread_id: UUID
    agent_id: str
    model: str
    provider: str
    tokens: Tokens
    latency_us: int | None
    cost: Decimal
    uncached_cost: Decimal | None
    price_id: int | None
    kind: Kind
    period: int
    granted_at: datetime

    @property
    def spent(self) -> int:
        """Tokens that count against budgets."""
        return self.tokens.prompt_tokens + self.tokens.completion_tokens


@dataclass(frozen=True, slots=True)
class Handled:
    """A message as the database has it: whose it is, and whether it is still being handled."""

    message_id: UUID
    thread_id: UUID
    agent_id: str
    open: bool


class Measured(NamedTuple):
    """What a usage event says, with its cost."""

    call_id: UUID
    model: str
    provider: str
    tokens: Tokens
    latency_us: int
    cost: Decimal
    uncached_cost: Decimal | None
    price_id: int | None
    kind: Kind
    granted_at: datetime


class Settled(NamedTuple):
    """A hold that was settled: the place of its event, from 0, and what the event is booked under."""

    place: int
    message_id: UUID
    thread_id: UUID
    agent_id: str
    period: int
