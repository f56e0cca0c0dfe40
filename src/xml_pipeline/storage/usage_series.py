"""Usage as it went over time: sums of hours or days, over all periods, by what they are grouped by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

Step = Literal["hour", "day"]
Group = Literal["agent", "model", "provider", "tag"]
# Sums of all that is not among the most used.
OTHERS = "(others)"

_COLUMNS = {"agent": "agent_id", "model": "model", "provider": "provider"}
_DAY = "cast(start at time zone 'UTC' as date)"
# Each is the condition of a partial index.
_WITHIN = {
    "hour": "grain = 'hour' and start >= :start and start < :end",
    "day": f"grain = 'day' and {_DAY} >= :start and {_DAY} < :end",
}
# What is expired has no latency. Integers are read much faster than the numeric that sums of bigint are.
_SUMS = """cast(sum(requests) as bigint) as requests, cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens, sum(cost) as cost,
    cast(sum(latency_us) as bigint) as latency_us, cast(sum(requests - expired) as bigint) as timed"""
_TAG_SUMS = """cast(sum(requests) as bigint) as requests, cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens, sum(cost) as cost, 0 as latency_us, 0 as timed"""
# Thousands of groups are summed up in memory, for this statement alone.
_ENOUGH_MEMORY = text("set local work_mem = '64MB'")


class Used(NamedTuple):
    """What was used in one step: cost in USD, latency in microseconds over the `timed` completions."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal
    latency_us: int
    timed: int


_ARRAYS = ", ".join(f"array_agg({name} order by start)" for name in ("start", *Used._fields))
_FIELDS = ", ".join(Used._fields)
_ADDED = ", ".join(
    f"cast(sum({name}) as {'numeric' if name == 'cost' else 'bigint'}) as {name}" for name in Used._fields
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which usage: from `start`, before `end`, both at the beginning of a step.

    `filters`: the one agent, model or provider; there are none of agents where it is grouped by tags.
    `most`: so many keys with the most tokens are told apart, the others are one.
    """

    start: datetime
    end: datetime
    step: Step
    group: Group | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    most: int = 100


async def series(connection: AsyncConnection, wanted: Wanted) -> dict[str | None, dict[datetime, Used]]:
    """What was used in each step that has any, by key, those with the most tokens first; the key of all is None."""
    ends: tuple[object, object] = (wanted.start, wanted.end)
    if wanted.step == "day":
        ends = wanted.start.date(), wanted.end.date()
    parameters = {"start": ends[0], "end": ends[1], **wanted.filters}
    if wanted.group is not None:
        parameters |= {"most": wanted.most, "others": OTHERS}
    await connection.execute(_ENOUGH_MEMORY)
    rows = await connection.execute(_statement(wanted), parameters)
    # A row for each key, with arrays: that is read in half the time of a row for each point.
    return {
        key: dict(zip(starts, map(Used._make, zip(*sums, strict=True)), strict=True)) for key, starts, *sums in rows
    }


def _statement(wanted: Wanted) -> TextClause:
    within = [_WITHIN[wanted.step], *(f"{_COLUMNS[name]} = :{name}" for name in sorted(wanted.filters))]
    where = " and ".join(within)
    if wanted.group is None:
        return text(f"""
            select null, {_ARRAYS}
            from (select start, {_SUMS} from usage_rollups where {where} group by start) as used having count(*) > 0
        """)  # noqa: S608
    source = _by_tag(where) if wanted.group == "tag" else _by_column(_COLUMNS[wanted.group], where)
    return text(f"""
        with used as materialized ({source}),
        ranked as (
            select key, row_number() over (order by sum(prompt_tokens + completion_tokens) desc, key) as rank
            from used group by key
        )
        select key, {_ARRAYS} from (
            select key, rank, start, {_FIELDS} from used join ranked using (key) where rank <= :most
            union all
            select :others, :most + 1, start, {_ADDED} from used join ranked using (key) where rank > :most
            group by start
        ) as told group by key, rank order by rank
    """)  # noqa: S608


def _by_column(column: str, where: str) -> str:
    return f"select {column} as key, start, {_SUMS} from usage_rollups where {where} group by 1, 2"  # noqa: S608


def _by_tag(where: str) -> str:
    # Tags have no latencies.
    return f"""
        select b.tag_key || '=' || b.tag_value as key, r.*
        from (select tag_id, start, {_TAG_SUMS} from tag_rollups where {where} group by 1, 2) r
        join budgets b on b.id = r.tag_id
    """  # noqa: S608
