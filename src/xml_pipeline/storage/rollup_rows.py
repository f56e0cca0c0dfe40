"""The keys and sums of rollups, as values. Keys sort, so that all writers lock rollups in one order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from xml_pipeline.storage.ledger_rows import Booking, Kind

# A bucket of the histogram of latencies is so many times as wide as the one before.
LATENCY_STEP = 1.05
_LOG_STEP = math.log(LATENCY_STEP)
GRAINS = ("day", "hour")


class RollupKey(NamedTuple):
    """What usage is summed up by. `grain`: `hour` or `day`, in UTC."""

    period: int
    grain: str
    start: datetime
    agent_id: str
    model: str
    provider: str


class TagKey(NamedTuple):
    """What usage of threads with a tag is summed up by."""

    period: int
    grain: str
    start: datetime
    tag_id: UUID
    model: str
    provider: str


class LatencyKey(NamedTuple):
    """A bucket of one day's histogram."""

    day: datetime
    model: str
    provider: str
    bucket: int


@dataclass(slots=True)
class Sums:
    """What is added to one rollup; negative where a booking is corrected."""

    requests: int = 0
    estimated: int = 0
    expired: int = 0
    unpriced: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0
    latency_us: int = 0
    cost: Decimal = Decimal(0)
    uncached_cost: Decimal = Decimal(0)

    def add(self, booking: Booking, sign: int) -> None:
        """Add one booking, or with `sign` -1 take it away."""
        tokens = booking.tokens
        self.requests += sign
        self.estimated += sign * (booking.kind is Kind.ESTIMATED)
        self.expired += sign * (booking.kind is Kind.EXPIRED)
        self.unpriced += sign * (booking.price_id is None)
        self.prompt_tokens += sign * tokens.prompt_tokens
        self.completion_tokens += sign * tokens.completion_tokens
        self.cache_read_tokens += sign * (tokens.cache_read_tokens or 0)
        self.cache_write_tokens += sign * (tokens.cache_write_tokens or 0)
        self.reasoning_tokens += sign * (tokens.reasoning_tokens or 0)
        self.audio_tokens += sign * ((tokens.audio_prompt_tokens or 0) + (tokens.audio_completion_tokens or 0))
        self.image_tokens += sign * ((tokens.image_prompt_tokens or 0) + (tokens.image_completion_tokens or 0))
        self.latency_us += sign * (booking.latency_us or 0)
        self.cost += sign * booking.cost
        self.uncached_cost += sign * (booking.cost if booking.uncached_cost is None else booking.uncached_cost)


@dataclass(slots=True)
class TagSums:
    """What is added to one rollup of a tag."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: Decimal = Decimal(0)

    def add(self, booking: Booking, sign: int) -> None:
        """Add one booking, or with `sign` -1 take it away."""
        self.requests += sign
        self.prompt_tokens += sign * booking.tokens.prompt_tokens
        self.completion_tokens += sign * booking.tokens.completion_tokens
        self.cost += sign * booking.cost


@dataclass(slots=True)
class LatencySums:
    """What is added to one bucket."""

    requests: int = 0


def bucket_of(latency_us: int) -> int:
    """The bucket of a latency: b holds those above 1.05^(b-1) and up to 1.05^b milliseconds."""
    return max(0, math.ceil(math.log(max(latency_us, 1) / 1000) / _LOG_STEP))


def start_of(grain: str, time: datetime) -> datetime:
    """The beginning of the hour or day, of a time in UTC."""
    hour = time.replace(minute=0, second=0, microsecond=0)
    return hour if grain == "hour" else hour.replace(hour=0)
