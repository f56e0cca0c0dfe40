"""The usual case of booking in one statement: events whose hold is still held, granted when they say.

What is booked, and what budgets and rollups move by, is counted from the holds that this very statement found held; it
has to delete as many. Holds are looked up one by one, by their key (`offset 0` keeps that so), and deleted where they
were found: joined, the planner would now and then read all of them.
The arrays travel as text: the driver would look at each element of a list several times, at a cost above the insert's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.budget_tree import COLUMNS, budget_of
from xml_pipeline.storage.ledger import TOKEN_KINDS
from xml_pipeline.storage.ledger_rows import Measured, Settled
from xml_pipeline.storage.rollup_rows import LatencyKey, LatencySums, RollupKey, Sums, TagKey, TagSums
from xml_pipeline.storage.rollups import columns_of, on_conflict

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LOCK = text(
    """
    select id from budgets where id = any(array(
        select unnest(ancestors || id) from budgets where id = any(array(
            select thread_id from holds where call_id = any(cast(cast(:calls as text) as uuid[]))
            union select * from unnest(cast(:threads as uuid[]))
        ))
    ))
    order by level desc, id for update
    """
)

_NODE = tuple(name.strip() for name in COLUMNS.split(","))
_SUMS = columns_of(Sums)


class Settlement(NamedTuple):
    """What was settled, those budgets whose use has reached the percentage asked for, and how many holds are gone."""

    settled: list[Settled]
    budgets: list[Budget]
    gone: int


def _sum(*names: str) -> str:
    return f"coalesce(sum({' + '.join(f'coalesce({name}, 0)' for name in names)}), 0)"


_ROLLED = {
    "requests": "count(*)",
    "estimated": "count(*) filter (where kind = 'estimated')",
    "expired": "0",
    "unpriced": "count(*) filter (where price_id is null)",
    "prompt_tokens": "sum(prompt_tokens)",
    "completion_tokens": "sum(completion_tokens)",
    "cache_read_tokens": _sum("cache_read_tokens"),
    "cache_write_tokens": _sum("cache_write_tokens"),
    "reasoning_tokens": _sum("reasoning_tokens"),
    "audio_tokens": _sum("audio_prompt_tokens", "audio_completion_tokens"),
    "image_tokens": _sum("image_prompt_tokens", "image_completion_tokens"),
    "latency_us": "sum(latency_us)",
    "cost": "sum(cost)",
    "uncached_cost": "sum(coalesce(uncached_cost, cost))",
}
_GRAINS = "(values ('day', interval '1 day'), ('hour', interval '1 hour')) as grains (grain, width)"
_START = "date_bin({}, granted_at, timestamptz '2000-01-01 00:00:00+00')"
_BUCKET = (
    "cast(greatest(0, ceil(ln(cast(greatest(latency_us, 1) as float8) / 1000) / ln(cast(1.05 as float8)))) as int)"
)

_SETTLE = text(
    f"""
    with settled as materialized (
        select held.*, (cast(:models as text[]))[new.name] as model, (cast(:providers as text[]))[new.name] as provider,
            {", ".join(f"new.{kind}" for kind in TOKEN_KINDS)},
            new.latency_us, new.cost, new.uncached_cost, new.price_id, new.kind, new.place
        from unnest(
            cast(cast(:calls as text) as uuid[]), cast(cast(:names as text) as int[]),
            {", ".join(f"cast(cast(:{kind} as text) as int[])" for kind in TOKEN_KINDS)},
            cast(cast(:latency_us as text) as bigint[]), cast(cast(:cost as text) as numeric[]),
            cast(cast(:uncached_cost as text) as numeric[]), cast(cast(:price_id as text) as bigint[]),
            cast(cast(:kind as text) as text[]), cast(cast(:granted as text) as bigint[])
        ) with ordinality as new (
            call_id, name, {", ".join(TOKEN_KINDS)}, latency_us, cost, uncached_cost, price_id, kind, granted, place
        ) cross join lateral (
            select ctid as row, call_id, message_id, thread_id, agent_id, period, granted_at,
                prompt_bound + cast(max_completion as bigint) as size
            from holds where call_id = new.call_id and state = 'held'
                and extract(epoch from granted_at) * 1000000 = new.granted
            offset 0
        ) as held
    ), gone as (
        delete from holds where ctid = any(array(select row from settled)) returning call_id
    ), booked as (
        insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, {", ".join(TOKEN_KINDS)},
            latency_us, cost, uncached_cost, price_id, kind, period, granted_at)
        select call_id, message_id, thread_id, agent_id, model, provider, {", ".join(TOKEN_KINDS)},
            latency_us, cost, uncached_cost, price_id, kind, period, granted_at
        from settled
    ), sums as (
        select thread_id, agent_id, sum(size) as held, sum(prompt_tokens) as prompt_tokens,
            sum(completion_tokens) as completion_tokens, count(*) as requests, sum(cost) as cost
        from settled group by thread_id, agent_id
    ), parts as (
        select node.id, sums.* from sums join budgets b on b.id = sums.thread_id
            cross join unnest(b.ancestors || b.id) as node (id)
        union all
        select agent.id, sums.* from sums cross join lateral (
            select id from budgets where level = 3 and thread_id = sums.thread_id and agent_id = sums.agent_id offset 0
        ) as agent
    ), nodes as (
        select id, sum(held) as held, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
            sum(requests) as requests, sum(cost) as cost
        from parts group by id
    ), moved as (
        update budgets
        set held = budgets.held - nodes.held, prompt_tokens = budgets.prompt_tokens + nodes.prompt_tokens,
            completion_tokens = budgets.completion_tokens + nodes.completion_tokens,
            requests = budgets.requests + nodes.requests, cost = budgets.cost + nodes.cost
        from nodes where budgets.id = nodes.id
        returning budgets.*
    ), rolled as (
        insert into usage_rollups ({", ".join((*RollupKey._fields, *_SUMS))})
        select period, grain, {_START.format("width")} as start, agent_id, model, provider,
            {", ".join(_ROLLED[name] for name in _SUMS)}
        from settled cross join {_GRAINS} group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6
        {on_conflict("usage_rollups", RollupKey._fields, _SUMS)}
    ), tagged as (
        insert into tag_rollups ({", ".join((*TagKey._fields, *columns_of(TagSums)))})
        select period, grain, {_START.format("width")} as start, tag.id, model, provider, count(*),
            sum(settled.prompt_tokens), sum(settled.completion_tokens), sum(settled.cost)
        from settled join budgets b on b.id = settled.thread_id and cardinality(b.ancestors) > 1
            cross join unnest(b.ancestors[2:]) as tag (id) cross join {_GRAINS}
        group by 1, 2, 3, 4, 5, 6 order by 1, 2, 3, 4, 5, 6
        {on_conflict("tag_rollups", TagKey._fields, columns_of(TagSums))}
    ), measured as (
        insert into latency_rollups ({", ".join((*LatencyKey._fields, *columns_of(LatencySums)))})
        select {_START.format("interval '1 day'")} as day, model, provider, {_BUCKET}, count(*)
        from settled group by 1, 2, 3, 4 order by 1, 2, 3, 4
        {on_conflict("latency_rollups", LatencyKey._fields, columns_of(LatencySums))}
    )
    select place, message_id, thread_id, agent_id, period, {", ".join("null" for _ in _NODE)} from settled
    union all
    select null, null, null, null, null, {", ".join(_NODE)} from moved
    where (prompt_tokens + completion_tokens) * 100 >= cast(:percent as bigint) * max_tokens and fired < 100
    union all
    select 0, null, null, null, cast(count(*) as int), {", ".join("null" for _ in _NODE)} from gone
    """  # noqa: S608
)


async def lock_budgets_of(connection: AsyncConnection, calls: Iterable[UUID], threads: Collection[UUID]) -> set[UUID]:
    """Lock the nodes of these threads, and of those whose holds the calls have; the ids of all that are locked."""
    return set(await connection.scalars(_LOCK, {"calls": _uuids(calls), "threads": list(threads)}))


async def settle_holds(connection: AsyncConnection, columns: Mapping[str, Any], *, percent: int) -> Settlement:
    """Settle the holds of these calls, book the events, move the budgets, which are locked, and then the rollups.

    `columns`: those of the events, which `settling_columns` makes. Events that have no hold, none that is held, or one
    that was granted at another time are left alone. No call may come twice. `percent`: the use from which budgets are
    returned. Raises IntegrityError for a call that is booked. Where fewer holds are gone than were settled, nothing of
    it may be committed.
    """
    rows = await connection.execute(_SETTLE, {**columns, "percent": percent})
    return _settlement(rows.all())


def settling_columns(measured: Sequence[Measured]) -> dict[str, Any]:
    """The events as `settle_holds` takes them: at least one."""
    columns = zip(*measured, strict=True)
    calls, models, providers, tokens, latencies, costs, uncached, prices, kinds, granted = columns
    names = list(zip(models, providers, strict=True))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    return {
        "calls": _uuids(calls),
        "names": _array(numbers[name] for name in names),
        "models": [model for model, _ in numbers],
        "providers": [provider for _, provider in numbers],
        **{kind: _nullable(values) for kind, values in zip(TOKEN_KINDS, zip(*tokens, strict=True), strict=True)},
        "latency_us": _array(latencies),
        "cost": _array(costs),
        "uncached_cost": _nullable(uncached),
        "price_id": _nullable(prices),
        "kind": _array(kinds),
        "granted": _array([_microseconds(time - _EPOCH) for time in granted]),
    }


def _settlement(rows: Iterable[Sequence[Any]]) -> Settlement:
    settled: list[Settled] = []
    budgets: list[Budget] = []
    gone = 0
    for place, message_id, thread_id, agent_id, period, *node in rows:
        if place is None:
            budgets.append(budget_of(node))
        elif place == 0:
            gone = period
        else:
            settled.append(Settled(place - 1, message_id, thread_id, agent_id, period))
    return Settlement(settled, budgets, gone)


def _microseconds(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _uuids(ids: Iterable[UUID]) -> str:
    return _array([id_.hex for id_ in ids])


def _array(values: Iterable[object]) -> str:
    """An array literal of values that need no quotes."""
    return "{" + ",".join(map(str, values)) + "}"


def _nullable(values: Iterable[object]) -> str:
    return "{" + ",".join(["null" if value is None else str(value) for value in values]) + "}"
