"""The usual case of booking in one statement: events whose hold is still held, granted when they say.

What is booked, and what budgets and rollups move by, is counted from the holds that this very statement settled.
The arrays travel as text: the driver would look at each element of a list several times, at a cost above the insert's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.ledger_rows import Budget, Measured, Settled, Settlement

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LOCK = text(
    """
    select thread_id from budgets
    where thread_id in (
        select thread_id from holds where call_id = any(cast(cast(:calls as text) as uuid[]))
        union select * from unnest(cast(:threads as uuid[]))
    )
    order by thread_id for update
    """
)

_SETTLE = text(
    """
    with settled as (
        update holds set state = 'settled'
        from unnest(
            cast(cast(:calls as text) as uuid[]), cast(cast(:names as text) as int[]),
            cast(cast(:prompt_tokens as text) as bigint[]), cast(cast(:completion_tokens as text) as bigint[]),
            cast(cast(:latency_ms as text) as numeric[]), cast(cast(:cost as text) as numeric[]),
            cast(cast(:priced as text) as boolean[]), cast(cast(:granted as text) as bigint[])
        ) with ordinality as new (
            call_id, name, prompt_tokens, completion_tokens, latency_ms, cost, priced, granted, place
        )
        where holds.call_id = new.call_id and holds.state = 'held'
            and extract(epoch from holds.granted_at) * 1000000 = new.granted
        returning holds.call_id, holds.message_id, holds.thread_id, holds.agent_id, holds.period, holds.granted_at,
            holds.prompt_bound + cast(holds.max_completion as bigint) as size,
            (cast(:models as text[]))[new.name] as model, (cast(:providers as text[]))[new.name] as provider,
            new.prompt_tokens, new.completion_tokens, new.latency_ms, new.cost, new.priced, new.place
    ), booked as (
        insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
            completion_tokens, latency_ms, cost, priced, kind, period, granted_at)
        select call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
            completion_tokens, latency_ms, cost, priced, 'measured', period, granted_at
        from settled
    ), sums as (
        select thread_id, sum(size) as held, sum(prompt_tokens) as prompt_tokens,
            sum(completion_tokens) as completion_tokens
        from settled group by thread_id
    ), moved as (
        update budgets
        set held = budgets.held - sums.held, prompt_tokens = budgets.prompt_tokens + sums.prompt_tokens,
            completion_tokens = budgets.completion_tokens + sums.completion_tokens
        from sums where budgets.thread_id = sums.thread_id
        returning budgets.thread_id, budgets.max_tokens, budgets.held, budgets.prompt_tokens, budgets.completion_tokens,
            cast(sums.prompt_tokens + sums.completion_tokens as bigint) as added
    ), rolled as (
        insert into usage_rollups (period, hour, agent_id, model, provider, requests, prompt_tokens, completion_tokens,
            latency_ms, cost)
        select period, date_bin('1 hour', granted_at, timestamptz '2000-01-01 00:00:00+00') as hour, agent_id, model,
            provider, count(*), sum(prompt_tokens), sum(completion_tokens), sum(latency_ms), sum(cost)
        from settled group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
        on conflict (period, hour, agent_id, model, provider) do update set
            requests = usage_rollups.requests + excluded.requests,
            prompt_tokens = usage_rollups.prompt_tokens + excluded.prompt_tokens,
            completion_tokens = usage_rollups.completion_tokens + excluded.completion_tokens,
            latency_ms = usage_rollups.latency_ms + excluded.latency_ms,
            cost = usage_rollups.cost + excluded.cost
    )
    select place, message_id, thread_id, agent_id, period, null, null, null, null, null from settled
    union all
    select null, null, thread_id, null, null, max_tokens, held, prompt_tokens, completion_tokens, added
    from moved where (prompt_tokens + completion_tokens) * 100 >= cast(:percent as bigint) * max_tokens
    """
)


async def lock_budgets_of(connection: AsyncConnection, calls: Iterable[UUID], threads: Collection[UUID]) -> set[UUID]:
    """Lock the budgets of these threads, and of those whose holds the calls have, in thread id order; their ids."""
    return set(await connection.scalars(_LOCK, {"calls": _uuids(calls), "threads": list(threads)}))


async def settle_holds(connection: AsyncConnection, measured: Sequence[Measured], *, percent: int) -> Settlement:
    """Settle the holds of these calls, book the events, move the budgets, which are locked, and then the rollups.

    Events that have no hold, none that is held, or one that was granted at another time are left alone. No call may
    come twice. `percent`: the use from which budgets are returned. Raises IntegrityError for a call that is booked.
    """
    calls, models, providers, prompts, completions, latencies, costs, priced, granted = zip(*measured, strict=True)
    names = list(zip(models, providers, strict=True))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    rows = await connection.execute(
        _SETTLE,
        {
            "calls": _uuids(calls),
            "names": _array(numbers[name] for name in names),
            "models": [model for model, _ in numbers],
            "providers": [provider for _, provider in numbers],
            "prompt_tokens": _array(prompts),
            "completion_tokens": _array(completions),
            "latency_ms": _array(latencies),
            "cost": _array(costs),
            "priced": _array(priced),
            "granted": _array([_microseconds(time - _EPOCH) for time in granted]),
            "percent": percent,
        },
    )
    return _settlement(rows.all())


def _settlement(rows: Iterable[Sequence[Any]]) -> Settlement:
    settled: list[Settled] = []
    budgets: list[tuple[Budget, int]] = []
    for place, message_id, thread_id, agent_id, period, maximum, held, prompt, completion, added in rows:
        if place is None:
            budgets.append((Budget(thread_id, maximum, held, prompt, completion), added))
        else:
            settled.append(Settled(place - 1, message_id, thread_id, agent_id, period))
    return Settlement(settled, budgets)


def _microseconds(delta: timedelta) -> int:
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _uuids(ids: Iterable[UUID]) -> str:
    return _array([id_.hex for id_ in ids])


def _array(values: Iterable[object]) -> str:
    """An array literal of values that need no quotes."""
    return "{" + ",".join(map(str, values)) + "}"
