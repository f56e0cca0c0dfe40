"""The ledger's statements: each takes a whole batch as arrays.

The order is what keeps the books right: budgets are locked first, in thread id order, and what belongs to them is read
only in later statements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import TextClause, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.ledger_rows import Booking, Budget, Handled, Hold, HoldState, Kind, RollupKey, Sums
from xml_pipeline.storage.tables import dead_letters

_THREADS_OF_CALLS = text("select call_id, thread_id from holds where call_id = any(cast(:calls as uuid[]))")

_HANDLED = text(
    """
    select m.id, m.thread_id, m.to_id, m.state <> 'closed' and t.status <> 'killed'
    from messages m join threads t on t.id = m.thread_id
    where m.id = any(cast(:messages as uuid[]))
    """
)

_ADD_BUDGETS = text(
    """
    insert into budgets (thread_id, max_tokens)
    select thread_id, :max_tokens from unnest(cast(:threads as uuid[])) as t (thread_id) order by thread_id
    on conflict (thread_id) do nothing
    """
)

_LOCK_BUDGETS = text(
    """
    select thread_id, max_tokens, held, prompt_tokens, completion_tokens
    from budgets where thread_id = any(cast(:threads as uuid[]))
    order by thread_id for update
    """
)

_HOLD_COLUMNS = """call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion, state,
    period, granted_at, expires_at"""

_HOLDS = text(f"select {_HOLD_COLUMNS} from holds where call_id = any(cast(:calls as uuid[]))")  # noqa: S608

_BOOKING_COLUMNS = """call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
    latency_ms, cost, priced, kind, period, granted_at"""

_BOOKINGS = text(f"select {_BOOKING_COLUMNS} from usage_events where call_id = any(cast(:calls as uuid[]))")  # noqa: S608

_HOLDS_OPEN = text("select exists (select from holds where state = 'held' and expires_at > clock_timestamp())")

_OVERDUE = text(
    """
    select call_id, thread_id from holds
    where state = 'held' and expires_at <= clock_timestamp()
    order by expires_at limit :limit
    """
)


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


async def add_budgets(connection: AsyncConnection, threads: Collection[UUID], max_tokens: int) -> None:
    """Give every thread that has none a budget of `max_tokens`."""
    if threads:
        await connection.execute(_ADD_BUDGETS, {"threads": list(threads), "max_tokens": max_tokens})


async def lock_budgets(connection: AsyncConnection, threads: Collection[UUID]) -> dict[UUID, Budget]:
    """Lock the budgets in thread id order, and read them."""
    if not threads:
        return {}
    rows = await connection.execute(_LOCK_BUDGETS, {"threads": list(threads)})
    return {row[0]: Budget(*row) for row in rows}


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
    return {row["call_id"]: Booking(**{**row, "kind": Kind(row["kind"])}) for row in rows.mappings()}


async def overdue_calls(connection: AsyncConnection, limit: int) -> dict[UUID, UUID]:
    """Calls whose hold is over, the oldest first, with their threads."""
    rows = await connection.execute(_OVERDUE, {"limit": limit})
    return {row[0]: row[1] for row in rows}


async def any_hold_open(connection: AsyncConnection) -> bool:
    """Whether a call may be under way somewhere."""
    return bool(await connection.scalar(_HOLDS_OPEN))


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
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "latency_ms": "numeric",
    "cost": "numeric",
    "priced": "boolean",
    "kind": "text",
    "period": "int",
    "granted_at": "timestamptz",
}


def _insert(table: str, types: Mapping[str, str], conflict: str = "") -> TextClause:
    columns = ", ".join(types)
    return text(f"insert into {table} ({columns}) select {columns} from {_unnest(**types)} {conflict}")  # noqa: S608


_ADD_HOLDS = _insert("holds", _HOLD_TYPES)
_ADD_BOOKINGS = _insert("usage_events", _BOOKING_TYPES, "on conflict (call_id) do nothing")

_MOVE_HOLDS = text(
    f"update holds set state = new.state from {_unnest(call_id='uuid', state='text')} where holds.call_id = new.call_id"  # noqa: S608
)

_REMOVE_BOOKINGS = text("delete from usage_events where call_id = any(cast(:calls as uuid[]))")

_SAVE_BUDGETS = text(
    f"""
    update budgets
    set held = new.held, prompt_tokens = new.prompt_tokens, completion_tokens = new.completion_tokens
    from {_unnest(thread_id="uuid", held="bigint", prompt_tokens="bigint", completion_tokens="bigint")}
    where budgets.thread_id = new.thread_id
    """  # noqa: S608
)

_ROLLUP_TYPES = {
    "period": "int",
    "hour": "timestamptz",
    "agent_id": "text",
    "model": "text",
    "provider": "text",
    "requests": "bigint",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "latency_ms": "numeric",
    "cost": "numeric",
}
_SUMS = ("requests", "prompt_tokens", "completion_tokens", "latency_ms", "cost")

_ADD_ROLLUPS = _insert(
    "usage_rollups",
    _ROLLUP_TYPES,
    "order by period, hour, agent_id, model, provider "
    "on conflict (period, hour, agent_id, model, provider) do update set "
    + ", ".join(f"{name} = usage_rollups.{name} + excluded.{name}" for name in _SUMS),
)


async def add_holds(connection: AsyncConnection, holds: Sequence[Hold]) -> None:
    """Insert new holds; one that exists is an IntegrityError."""
    if holds:
        await connection.execute(_ADD_HOLDS, _columns(_HOLD_TYPES, holds))


async def move_holds(connection: AsyncConnection, states: Mapping[UUID, HoldState]) -> None:
    """Set the state of holds."""
    if states:
        parameters = {"call_id": list(states), "state": [state.value for state in states.values()]}
        await connection.execute(_MOVE_HOLDS, parameters)


async def add_bookings(connection: AsyncConnection, bookings: Sequence[Booking]) -> int:
    """Insert usage events and return how many were new."""
    if not bookings:
        return 0
    return (await connection.execute(_ADD_BOOKINGS, _columns(_BOOKING_TYPES, bookings))).rowcount


async def remove_bookings(connection: AsyncConnection, calls: Collection[UUID]) -> None:
    """Delete usage events."""
    if calls:
        await connection.execute(_REMOVE_BOOKINGS, {"calls": list(calls)})


async def save_budgets(connection: AsyncConnection, budgets: Collection[Budget]) -> None:
    """Write the sums of budgets that are locked."""
    if budgets:
        names = ("thread_id", "held", "prompt_tokens", "completion_tokens")
        await connection.execute(_SAVE_BUDGETS, _columns(names, budgets))


async def add_rollups(connection: AsyncConnection, rollups: Mapping[RollupKey, Sums]) -> None:
    """Add to hourly sums, in the order of their keys."""
    if rollups:
        keys = _columns(RollupKey._fields, rollups)
        await connection.execute(_ADD_ROLLUPS, keys | _columns(_SUMS, rollups.values()))


def _columns(names: Iterable[str], rows: Iterable[object]) -> dict[str, list[object]]:
    kept = list(rows)
    return {name: [getattr(row, name) for row in kept] for name in names}


async def add_dead_letter(connection: AsyncConnection, id_: UUID, reason: str, body: bytes) -> None:
    """Keep a message that cannot be booked, for people to look at."""
    await connection.execute(
        insert(dead_letters).values(id=id_, listener=None, code="usage-refused", reason=reason, body=body)
    )
