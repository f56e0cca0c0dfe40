"""Usage over time as the API tells of it: which steps there are, and a point for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, Protocol

from pydantic import Field

from xml_pipeline.server import models

Step = Literal["hour", "day"]
Group = Literal["agent", "model", "provider", "tag"]
STEPS: Mapping[Step, timedelta] = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
GROUPS: tuple[Group, ...] = ("agent", "model", "provider", "tag")
DEFAULT_STEPS: Mapping[Step, int] = {"hour": 24, "day": 30}
# Of one series, and of all together.
MOST_STEPS = 1000
MOST_POINTS = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UsagePoint(models.UsageSums):
    """What was used in one step; `time` is its beginning."""

    time: datetime


class UsageSeries(models.ApiModel):
    """What was used over time; `key` is the agent, model, provider or `key=value` of a tag, null for all together."""

    key: str | None
    points: list[UsagePoint]


class UsageSeriesAnswer(models.ApiModel):
    """Series with the most tokens first; every one has a point for each step from `from` on and before `to`, in UTC."""

    step: str
    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    series: list[UsageSeries]


class Used(Protocol):
    """What was used in one step: cost in USD, latency in microseconds over the `timed` completions."""

    @property
    def requests(self) -> int:
        """Completions."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Sent."""
        ...

    @property
    def completion_tokens(self) -> int:
        """Received."""
        ...

    @property
    def cost(self) -> Decimal:
        """USD."""
        ...

    @property
    def latency_us(self) -> int:
        """Microseconds, summed up."""
        ...

    @property
    def timed(self) -> int:
        """Completions whose latency is known."""
        ...


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """Which usage: from `start`, before `end`, both at the beginning of a step in UTC."""

    start: datetime
    end: datetime
    step: Step = "hour"
    group_by: Group | None = None
    filters: Mapping[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many there are."""
        return (self.end - self.start) // STEPS[self.step]

    @property
    def most_series(self) -> int:
        """How many series may be told apart, so that the answer stays small."""
        return max(1, MOST_POINTS // max(1, self.steps))


def floor(time: datetime, step: Step) -> datetime:
    """The beginning of the step that a time is in."""
    return time - (time - _EPOCH) % STEPS[step]


def ceiling(time: datetime, step: Step) -> datetime:
    """The first beginning of a step that is not before a time."""
    return floor(time + STEPS[step] - timedelta.resolution, step)


def series_of(query: SeriesQuery, found: Mapping[str | None, Mapping[datetime, Used]]) -> UsageSeriesAnswer:
    """The answer: each series has a point for every step, with zeros where nothing was used."""
    times = [query.start + number * STEPS[query.step] for number in range(query.steps)]
    series = [{"key": key, "points": [_point(time, used.get(time)) for time in times]} for key, used in found.items()]
    # Thousands of models: made at once from dicts, they take a third of the time.
    return UsageSeriesAnswer.model_validate(
        {"step": query.step, "start": query.start, "end": query.end, "series": series}
    )


def _point(time: datetime, used: Used | None) -> Mapping[str, object]:
    if used is None:
        return {"time": time}
    requests, prompt, completion = used.requests, used.prompt_tokens, used.completion_tokens
    return {
        "time": time,
        "request_count": requests,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "total_cost": float(used.cost),
        "avg_latency_ms": used.latency_us / used.timed / 1000 if used.timed else 0.0,
    }
