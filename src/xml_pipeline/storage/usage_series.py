"""Usage as it went over time: sums of hours or days, over all periods, by what they are grouped by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.usage import SUMS, Sums, sums_of

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
_ADDED = ("requests", "prompt_tokens", "completion_tokens", "latency_us", "timed", "cost")
_SUMMED = ", ".join(f"sum({name})" for name in _ADDED)


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


async def series(connection: AsyncConnection, wanted: Wanted) -> dict[str | None, dict[datetime, Sums]]:
    """What was used in each step that has any, by key, those with the most tokens first; the key of all is None."""
    ends: tuple[object, object] = (wanted.start, wanted.end)
    if wanted.step == "day":
        ends = wanted.start.date(), wanted.end.date()
    parameters = {"start": ends[0], "end": ends[1], **wanted.filters}
    if wanted.group is not None:
        parameters |= {"most": wanted.most, "others": OTHERS}
    found: dict[str | None, dict[datetime, Sums]] = {}
    for key, start, *sums in await connection.execute(_statement(wanted), parameters):
        found.setdefault(key, {})[start] = sums_of(sums)
    return found


def _statement(wanted: Wanted) -> TextClause:
    within = [_WITHIN[wanted.step], *(f"{_COLUMNS[name]} = :{name}" for name in sorted(wanted.filters))]
    where = " and ".join(within)
    if wanted.group is None:
        return text(f"select null, start, {SUMS} from usage_rollups where {where} group by start order by start")  # noqa: S608
    source = _by_tag(where) if wanted.group == "tag" else _by_column(_COLUMNS[wanted.group], where)
    return text(f"""
        with used (key, start, {", ".join(_ADDED)}) as materialized ({source}),
        ranked as (
            select key, row_number() over (order by sum(prompt_tokens + completion_tokens) desc, key) as rank
            from used group by key
        )
        select case when rank <= :most then key else :others end, start, {_SUMMED}
        from used join ranked using (key)
        group by 1, least(rank, :most + 1), start order by least(rank, :most + 1), start
    """)  # noqa: S608


def _by_column(column: str, where: str) -> str:
    return f"select {column}, start, {SUMS} from usage_rollups where {where} group by 1, 2"  # noqa: S608


def _by_tag(where: str) -> str:
    # Tags have no latencies.
    return f"""
        select b.tag_key || '=' || b.tag_value, start, r.requests, prompt, completion, 0, 0, r.cost
        from (
            select tag_id, start, sum(requests) as requests, sum(prompt_tokens) as prompt,
                sum(completion_tokens) as completion, sum(cost) as cost
            from tag_rollups where {where} group by 1, 2
        ) r join budgets b on b.id = r.tag_id
    """  # noqa: S608
