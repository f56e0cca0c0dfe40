"""That what reports say equals what the raw rows say."""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import text

from xml_pipeline.reports.definitions import REPORTS
from xml_pipeline.reports.query import Wanted, run_report
from xml_pipeline.storage import usage, usage_series
from xml_pipeline.storage.database import Database

Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Range:
    """Days in UTC, both included."""

    first: date
    last: date


_DAY = "cast(granted_at at time zone 'UTC' as date)"
_SUMS = """count(*), count(*) filter (where kind = 'estimated'), count(*) filter (where kind = 'expired'),
    count(*) filter (where price_id is null), sum(prompt_tokens), sum(completion_tokens),
    sum(prompt_tokens + completion_tokens), sum(cost)"""
_FEW = "count(*), sum(prompt_tokens), sum(completion_tokens), sum(prompt_tokens + completion_tokens), sum(cost)"
_BY = {
    "cost-by-day": f"select {_DAY}, {_SUMS} from usage_events group by 1",
    "cost-by-agent": f"select agent_id, {_SUMS} from usage_events group by 1",
    "cost-by-model": f"select model, provider, {_SUMS} from usage_events group by 1, 2",
    "cost-by-provider": f"select provider, {_SUMS} from usage_events group by 1",
    "cost-by-tag": f"""select tag.key, tag.value, {_FEW}
        from usage_events e join threads t on t.id = e.thread_id, jsonb_each_text(t.tags) as tag group by 1, 2""",
    "cache-savings": """select model, provider, count(*), sum(prompt_tokens), coalesce(sum(cache_read_tokens), 0), 0,
        round(100.0 * coalesce(sum(cache_read_tokens), 0) / sum(prompt_tokens), 1), sum(cost),
        sum(coalesce(uncached_cost, cost)), sum(coalesce(uncached_cost, cost)) - sum(cost)
        from usage_events group by 1, 2""",
    "unpriced-models": """select model, provider, count(*), count(*), sum(prompt_tokens + completion_tokens)
        from usage_events where price_id is null group by 1, 2""",
}


async def _sums_are_equal(database: Database, within: Range) -> None:
    for name, sql in _BY.items():
        _equal(name, await _said(database, name, within), await _raw(database, sql))


async def _threads_are_the_dearest(database: Database, within: Range) -> None:
    said = await _said(database, "threads-by-cost", within)
    raw = await _raw(
        database,
        """select cast(thread_id as text), sum(cost) from usage_events
           group by thread_id order by 2 desc, thread_id limit 100""",
    )
    _equal("threads-by-cost", [(row[0], row[-1]) for row in said], raw)


async def _expired_are_the_latest(database: Database, within: Range) -> None:
    said = await _said(database, "expired-holds", within)
    raw = await _raw(
        database,
        """select granted_at, cast(call_id as text), cost from usage_events where kind = 'expired'
           order by granted_at desc, call_id limit 100""",
    )
    _equal("expired-holds", [(row[0], row[2], row[-1]) for row in said], raw)


async def _percentiles_are_near(database: Database, within: Range) -> None:
    said = {row[0]: row for row in await _said(database, "latency-by-model", within)}
    raw = await _raw(
        database,
        """select model, count(*), percentile_disc(array[0.5, 0.9, 0.95, 0.99]) within group (order by latency_us)
           from usage_events where latency_us is not null group by 1""",
    )
    for model, count, exact in raw:
        assert said[model][2] == count, model
        for value, latency_us in zip(said[model][3:], exact, strict=True):
            # The bucket's upper bound, rounded to a tenth.
            assert latency_us / 1000 - 0.06 <= float(value) <= latency_us / 1000 * 1.05 + 0.06, (model, value)


async def _use_is_the_highest(database: Database, within: Range) -> None:
    said = await _said(database, "budget-utilisation", within)
    raw = await _raw(
        database,
        """select round(100.0 * sum(prompt_tokens + completion_tokens) / 100000, 1) from usage_events
           group by thread_id order by 1 desc limit 100""",
    )
    _equal("budget-utilisation", [(row[-1],) for row in said if row[0] == "thread"], raw)


async def _usage_is_equal(database: Database, within: Range) -> None:
    async with database.snapshot() as connection:
        overview = await usage.overview(connection)
        threads = await usage.count_budgets(connection)
    raw = await _raw(database, f"select {_FEW}, sum(latency_us), count(latency_us) from usage_events")
    total = overview.totals
    said = (total.requests, total.prompt_tokens, total.completion_tokens, total.total_tokens, total.cost)
    _equal("usage", [(*said, total.latency_us, total.timed)], raw)
    of_agents = await _raw(database, "select agent_id, count(*), sum(cost) from usage_events group by 1")
    _equal("usage", [(name, sums.requests, sums.cost) for name, sums in overview.by_agent.items()], of_agents)
    _equal("usage", [(threads,)], await _raw(database, "select count(*) from threads"))


async def _series_are_equal(database: Database, within: Range) -> None:
    start = datetime.combine(within.first, time(), UTC)
    end = datetime.combine(within.last + timedelta(days=1), time(), UTC)
    async with database.snapshot() as connection:
        found = await usage_series.series(connection, usage_series.Wanted(start, end, "hour", "model"))
    said = [(key, at, sums.requests, sums.cost) for key, used in found.items() for at, sums in used.items()]
    raw = await _raw(
        database,
        """select model, date_bin('1 hour', granted_at, timestamptz '2000-01-01 00:00+00'), count(*), sum(cost)
           from usage_events group by 1, 2""",
    )
    _equal("timeseries", said, [row for row in raw if start <= row[1] < end])


Check = Callable[[Database, Range], Awaitable[None]]
CHECKS: tuple[Check, ...] = (
    _sums_are_equal,
    _threads_are_the_dearest,
    _expired_are_the_latest,
    _percentiles_are_near,
    _use_is_the_highest,
    _usage_is_equal,
    _series_are_equal,
)


async def _said(database: Database, name: str, within: Range) -> Rows:
    async with database.snapshot() as connection:
        # The last thread's calls go on into the next day.
        wanted = Wanted(REPORTS[name], within.first, within.last + timedelta(days=1))
        return (await run_report(connection, wanted)).rows


async def _raw(database: Database, sql: str) -> Rows:
    async with database.snapshot() as connection:
        return [tuple(row) for row in await connection.execute(text(sql))]


def _equal(name: str, said: Rows, raw: Rows) -> None:
    different = {*said} ^ {*raw}
    if different or len(said) != len(raw):
        raise AssertionError(f"{name} differs from the raw rows: {sorted(different, key=repr)[:4]}")
