"""Which reports there are: the view of each, what it can be grouped by, and what is summed up how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from xml_pipeline.errors import InvalidInput, NotFound


class Kind(Enum):
    """What a column holds. Counts are integers, all other numbers decimals."""

    DAY = "day"
    TIME = "time"
    TEXT = "text"
    FLAG = "flag"
    COUNT = "count"
    MONEY = "money"
    NUMBER = "number"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a report. `total`: the SQL that makes one value of many rows; None cannot be made one."""

    name: str
    kind: Kind
    total: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    `groups` are what it can be grouped by, `by` what it is unless somebody says otherwise; without any it lists the
    rows of its view. `details` is the view with all of `groups`, where its own has only some. `range` is the column
    that a range of days is about, None where the report is about now. `order` is SQL; `charted` the column of charts.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    groups: tuple[Column, ...]
    by: tuple[str, ...]
    order: str
    charted: str
    label: str = ""
    details: str | None = None
    range: str | None = "day"
    limit: int | None = None

    @property
    def view(self) -> str:
        """The view of this report."""
        return self.name.replace("-", "_")

    def group(self, name: str) -> Column:
        """What it can be grouped by, by name. Raises InvalidInput."""
        for column in self.groups:
            if column.name == name:
                return column
        choices = ", ".join(column.name for column in self.groups) or "nothing"
        raise InvalidInput(f"{self.name} cannot be grouped by {name!r}: choose from {choices}")


def _count(name: str) -> Column:
    return Column(name, Kind.COUNT, f"cast(sum({name}) as bigint)")


def _money(name: str) -> Column:
    return Column(name, Kind.MONEY, f"sum({name})")


def _percentile(share: int) -> Column:
    name = f"p{share}_ms"
    return Column(name, Kind.NUMBER, f"min(up_to_ms) filter (where so_far >= {share / 100} * in_all)")


DAY = Column("day", Kind.DAY)
_TEXTS = {name: Column(name, Kind.TEXT) for name in ("agent", "model", "provider", "tag_key", "tag_value", "level")}
_AGENT, _MODEL, _PROVIDER, _TAG_KEY, _TAG_VALUE, _LEVEL = _TEXTS.values()
_THREAD = Column("thread_id", Kind.TEXT)
_TOKENS = tuple(map(_count, ("prompt_tokens", "completion_tokens", "total_tokens")))
_COSTS = (*map(_count, ("requests", "estimated", "expired", "unpriced")), *_TOKENS, _money("cost"))
_BUDGET = (_LEVEL, Column("budget", Kind.TEXT))
_UNLIMITED = Column("unlimited", Kind.FLAG)


_CACHED = "round(100.0 * sum(cache_read_tokens) / nullif(sum(prompt_tokens), 0), 1)"


def _costs(name: str, title: str, *by: str, order: str = "cost desc") -> Report:
    groups = (DAY, _AGENT, _MODEL, _PROVIDER)
    return Report(name, title, _COSTS, groups, by, order, "cost", details="usage_details")


_REPORTS = (
    _costs("cost-by-day", "Cost by day", "day", order="day"),
    _costs("cost-by-agent", "Cost by agent", "agent"),
    _costs("cost-by-model", "Cost by model", "model", "provider"),
    _costs("cost-by-provider", "Cost by provider", "provider"),
    Report(
        "cost-by-tag",
        "Cost by tag",
        (_count("requests"), *_TOKENS, _money("cost")),
        (DAY, _TAG_KEY, _TAG_VALUE, _MODEL, _PROVIDER),
        ("tag_key", "tag_value"),
        "cost desc",
        "cost",
        details="tag_details",
    ),
    Report(
        "threads-by-cost",
        "Threads by cost",
        (_THREAD, DAY, Column("tags", Kind.TEXT), _count("requests"), *_TOKENS, _money("cost")),
        (DAY,),
        (),
        "cost_rank desc, cost desc, thread_id",
        "cost",
        label="thread_id",
        limit=100,
    ),
    Report(
        "budget-utilisation",
        "Budget utilisation",
        (
            *_BUDGET,
            _UNLIMITED,
            _count("max_tokens"),
            _count("spent_tokens"),
            _count("held_tokens"),
            _count("available_tokens"),
            Column("used_percent", Kind.NUMBER),
        ),
        (_LEVEL,),
        (),
        "use_rank desc, used_percent desc nulls last, budget",
        "used_percent",
        label="budget",
        range=None,
        limit=100,
    ),
    Report(
        "latency-by-model",
        "Latency by model",
        (Column("requests", Kind.COUNT, "cast(max(in_all) as bigint)"), *map(_percentile, (50, 90, 95, 99))),
        (DAY, _MODEL, _PROVIDER),
        ("model", "provider"),
        "requests desc",
        "p95_ms",
        details="latency_details",
    ),
    Report(
        "cache-savings",
        "Savings by caches",
        (
            *map(_count, ("requests", "prompt_tokens", "cache_read_tokens", "cache_write_tokens")),
            Column(
                "cached_percent",
                Kind.NUMBER,
                "round(100.0 * sum(cache_read_tokens) / nullif(sum(prompt_tokens), 0), 1)",
            ),
            *map(_money, ("cost", "uncached_cost")),
            Column("saved", Kind.MONEY, "sum(uncached_cost) - sum(cost)"),
        ),
        (DAY, _AGENT, _MODEL, _PROVIDER),
        ("model", "provider"),
        "saved desc",
        "saved",
        details="usage_details",
    ),
    Report(
        "unpriced-models",
        "Models without a price",
        tuple(map(_count, ("unpriced", "requests", "total_tokens"))),
        (DAY, _MODEL, _PROVIDER),
        ("model", "provider"),
        "unpriced desc",
        "unpriced",
    ),
    Report(
        "expired-holds",
        "Expired holds",
        (
            Column("granted_at", Kind.TIME),
            Column("expires_at", Kind.TIME),
            Column("call_id", Kind.TEXT),
            _THREAD,
            _AGENT,
            _MODEL,
            _PROVIDER,
            *_TOKENS,
            _money("cost"),
        ),
        (DAY, _AGENT, _MODEL, _PROVIDER),
        (),
        "granted_at desc, call_id",
        "total_tokens",
        label="call_id",
        range="granted_at",
        limit=100,
    ),
    Report(
        "burn-rate",
        "Burn rate",
        (
            *_BUDGET,
            _UNLIMITED,
            _count("available_tokens"),
            Column("tokens_per_day", Kind.NUMBER),
            Column("days_left", Kind.NUMBER),
        ),
        (),
        (),
        "array_position(array['organism','tag','thread'], level), days_left nulls last, tokens_per_day desc, budget",
        "tokens_per_day",
        label="budget",
        range=None,
        limit=100,
    ),
)

REPORTS: Mapping[str, Report] = {report.name: report for report in _REPORTS}


def report_named(name: str) -> Report:
    """The report, whether it is written with hyphens or as its view. Raises NotFound."""
    found = REPORTS.get(name.replace("_", "-"))
    if found is None:
        raise NotFound(f"there is no report {name!r}: there are {', '.join(REPORTS)}")
    return found
