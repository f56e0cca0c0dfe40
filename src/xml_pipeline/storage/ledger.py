"""The ledger's statements: each takes a whole batch as arrays.

The order is what keeps the books right: budgets are locked first, in thread id order, and what belongs to them is read
only in later statements.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.llm.pricing import PriceUsed
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState, Kind
from xml_pipeline.storage.tables import dead_letters

# The code of the dead letters of the usage queue.
USAGE_REFUSED = "usage-refused"

_THREADS_OF_CALLS = text("select call_id, thread_id from holds where call_id = any(cast(:calls as uuid[]))")

_HANDLED = text(
    """
    select m.id, m.thread_id, m.to_id, m.state <> 'closed' and t.status <> 'killed'
    from messages m join threads t on t.id = m.thread_id
    where m.id = any(cast(:messages as uuid[]))
    """
)

_HOLD_COLUMNS = """call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion, state,
    period, granted_at, expires_at"""

_HOLDS = text(f"select {_HOLD_COLUMNS} from holds where call_id = any(cast(:calls as uuid[]))")  # noqa: S608

TOKEN_KINDS = Tokens._fields
_TOKENS = ", ".join(TOKEN_KINDS)

_BOOKINGS = text(
    f"""
    select call_id, message_id, thread_id, agent_id, model, provider, {_TOKENS}, latency_us, cost, uncached_cost,
        price_id, kind, period, granted_at
    from usage_events where call_id = any(cast(:calls as uuid[]))
    """  # noqa: S608
)

_HOLDS_OPEN = text("select exists (select from holds where state = 'held' and expires_at > clock_timestamp())")

_OVERDUE = text(
    """
    select call_id, thread_id from holds
    where state = 'held' and expires_at <= clock_timestamp()
    order by expires_at limit :limit
    """
)


_BY_KEYS = text("set local enable_seqscan = off")


async def plan_by_keys(connection: AsyncConnection) -> None:
    """Have this transaction look rows up by their keys.

    With statistics of a quiet moment the planner takes holds and budgets for nearly empty, and reads all of them for
    each row of a batch: for seconds, once they are not.
    """
    await connection.execute(_BY_KEYS)


async def threads_of_calls(connection: AsyncConnection, calls: Collection[UUID]) -> dict[UUID, UUID]:
    """The thread of each call that has a hold. A hold never changes its thread."""
    rows = await connection.execute(_THREADS_OF_CALLS, {"calls": list(calls)})
    return {row[0]: row[1] for row in rows}


async def read_handled(connection: AsyncConnection, messages: Collection[UUID]) -> dict[UUID, Handled]:
    """The messages that exist, by id. A message never changes its thread or recipient."""
    if not messages:
        return {}
    rows = await connection.execute(_HANDLED, {"messages": list(messages)})
    return {row[0]: Handled(*row) for row in rows}


async def read_holds(connection: AsyncConnection, calls: Collection[UUID]) -> dict[UUID, Hold]:
    """The holds of these calls; certain only while their budgets are locked."""
    if not calls:
        return {}
    rows = await connection.execute(_HOLDS, {"calls": list(calls)})
    return {row[0]: _hold(*row) for row in rows}


async def read_bookings(connection: AsyncConnection, calls: Collection[UUID]) -> dict[UUID, Booking]:
    """The usage events of these calls."""
    if not calls:
        return {}
    rows = await connection.execute(_BOOKINGS, {"calls": list(calls)})
    return {row[0]: _booking(tuple(row)) for row in rows}


async def overdue_calls(connection: AsyncConnection, limit: int) -> dict[UUID, UUID]:
    """Calls whose hold is over, the oldest first, with their threads."""
    rows = await connection.execute(_OVERDUE, {"limit": limit})
    return {row[0]: row[1] for row in rows}


async def any_hold_open(connection: AsyncConnection) -> bool:
    """Whether a call may be under way somewhere."""
    return bool(await connection.scalar(_HOLDS_OPEN))


def _booking(row: tuple[Any, ...]) -> Booking:
    call_id, message_id, thread_id, agent_id, model, provider, *others = row
    counts, rest = others[: len(TOKEN_KINDS)], others[len(TOKEN_KINDS) :]
    latency_us, cost, uncached_cost, price_id, kind, period, granted_at = rest
    return Booking(
        call_id,
        message_id,
        thread_id,
        agent_id,
        model,
        provider,
        Tokens(*counts),
        latency_us,
        cost,
        uncached_cost,
        price_id,
        Kind(kind),
        period,
        granted_at,
    )


def _hold(
    call_id: UUID,
    message_id: UUID,
    thread_id: UUID,
    agent_id: str,
    model: str,
    provider: str,
    prompt_bound: int,
    max_completion: int,
    state: str,
    period: int,
    granted_at: datetime,
    expires_at: datetime,
) -> Hold:
    return Hold(
        call_id,
        message_id,
        thread_id,
        agent_id,
        model,
        provider,
        prompt_bound,
        max_completion,
        HoldState(state),
        period,
        granted_at,
        expires_at,
    )


def _unnest(**types: str) -> str:
    arrays = ", ".join(f"cast(:{name} as {kind}[])" for name, kind in types.items())
    return f"unnest({arrays}) as new ({', '.join(types)})"


_HOLD_TYPES = {
    "call_id": "uuid",
    "message_id": "uuid",
    "thread_id": "uuid",
    "agent_id": "text",
    "model": "text",
    "provider": "text",
    "prompt_bound": "int",
    "max_completion": "int",
    "state": "text",
    "period": "int",
    "granted_at": "timestamptz",
    "expires_at": "timestamptz",
}

_BOOKING_TYPES = {
    "call_id": "uuid",
    "message_id": "uuid",
    "thread_id": "uuid",
    "agent_id": "text",
    "model": "text",
    "provider": "text",
    **dict.fromkeys(TOKEN_KINDS, "int"),
    "latency_us": "bigint",
    "cost": "numeric",
    "uncached_cost": "numeric",
    "price_id": "bigint",
    "kind": "text",
    "period": "int",
    "granted_at": "timestamptz",
}


def _insert(table: str, types: Mapping[str, str], conflict: str = "") -> TextClause:
    columns = ", ".join(types)
    return text(f"insert into {table} ({columns}) select {columns} from {_unnest(**types)} {conflict}")  # noqa: S608


_ADD_HOLDS = _insert("holds", _HOLD_TYPES)
_ADD_BOOKINGS = _insert("usage_events", _BOOKING_TYPES, "on conflict (call_id, granted_at) do nothing")

_DELETE_HOLDS = text("delete from holds where call_id = any(cast(:calls as uuid[]))")

_MOVE_HOLDS = text(
    f"update holds set state = new.state from {_unnest(call_id='uuid', state='text')} where holds.call_id = new.call_id"  # noqa: S608
)

# The time tells the month that the row is in.
_REMOVE_BOOKINGS = text(
    f"""
    delete from usage_events e using {_unnest(call_id="uuid", granted_at="timestamptz")}
    where e.call_id = new.call_id and e.granted_at = new.granted_at
    """  # noqa: S608
)

_BUDGET_TYPES = {
    "id": "uuid",
    "held": "bigint",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "requests": "bigint",
    "cost": "numeric",
    "fired": "smallint",
}
_SAVE_BUDGETS = text(
    f"""
    update budgets
    set {", ".join(f"{name} = new.{name}" for name in _BUDGET_TYPES if name != "id")}
    from {_unnest(**_BUDGET_TYPES)} where budgets.id = new.id
    """  # noqa: S608
)

_ADD_PRICES = text(
    """
    insert into prices (id, provider, model, source, rates)
    select id, provider, model, source, cast(rates as jsonb)
    from unnest(cast(:id as bigint[]), cast(:provider as text[]), cast(:model as text[]), cast(:source as text[]),
                cast(:rates as text[])) as new (id, provider, model, source, rates)
    order by id on conflict (id) do nothing
    """
)


async def add_holds(connection: AsyncConnection, holds: Sequence[Hold]) -> None:
    """Insert new holds; one that exists is an IntegrityError."""
    if holds:
        await connection.execute(_ADD_HOLDS, _columns(_HOLD_TYPES, holds))


async def move_holds(connection: AsyncConnection, states: Mapping[UUID, HoldState]) -> None:
    """Set the state of holds; those that are settled go."""
    over = [call for call, state in states.items() if state is HoldState.SETTLED]
    kept = {call: state.value for call, state in states.items() if state is not HoldState.SETTLED}
    if over:
        await connection.execute(_DELETE_HOLDS, {"calls": over})
    if kept:
        await connection.execute(_MOVE_HOLDS, {"call_id": list(kept), "state": list(kept.values())})


async def add_bookings(connection: AsyncConnection, bookings: Sequence[Booking]) -> int:
    """Insert usage events and return how many were new."""
    if not bookings:
        return 0
    columns = _columns([name for name in _BOOKING_TYPES if name not in TOKEN_KINDS], bookings)
    columns |= _columns(TOKEN_KINDS, [booking.tokens for booking in bookings])
    return (await connection.execute(_ADD_BOOKINGS, columns)).rowcount


async def remove_bookings(connection: AsyncConnection, bookings: Collection[Booking]) -> None:
    """Delete usage events."""
    if bookings:
        await connection.execute(_REMOVE_BOOKINGS, _columns(("call_id", "granted_at"), bookings))


async def save_budgets(connection: AsyncConnection, budgets: Collection[Budget]) -> None:
    """Write the sums of budgets that are locked."""
    if budgets:
        await connection.execute(_SAVE_BUDGETS, _columns(_BUDGET_TYPES, budgets))


async def add_prices(connection: AsyncConnection, prices: Mapping[int, PriceUsed]) -> None:
    """Keep what calls were charged by. The last step: who waits for a price that another adds has all else."""
    if prices:
        columns = _columns(("id", "provider", "model", "source"), prices.values())
        columns["rates"] = [json.dumps(dict(price.rates), sort_keys=True) for price in prices.values()]
        await connection.execute(_ADD_PRICES, columns)


def _columns(names: Iterable[str], rows: Iterable[object]) -> dict[str, list[object]]:
    kept = list(rows)
    return {name: [getattr(row, name) for row in kept] for name in names}


async def add_dead_letter(connection: AsyncConnection, id_: UUID, reason: str, body: bytes) -> None:
    """Keep a message that cannot be booked, for people to look at."""
    await connection.execute(
        insert(dead_letters).values(id=id_, listener=None, code=USAGE_REFUSED, reason=reason, body=body)
    )
