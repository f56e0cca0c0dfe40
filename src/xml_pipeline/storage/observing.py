"""What is told of the database's contents as metrics. Each statement costs as much as there is open, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.storage.budget_rows import ORGANISM_ID

STATES = ("accepted", "waiting", "ready", "retrying", "parked", "out")
# Of each state. What is beyond is not worth the time that it takes to count it.
MOST_COUNTED = 200_000

# By state, since each has its partial index.
_OPEN = text("""
    select to_id, state, count(*) as open,
        cast(extract(epoch from clock_timestamp() - min(created_at)) as float8) as age
    from (
        (select to_id, 'waiting' as state, created_at from messages where state = 'waiting' limit :most)
        union all
        (select to_id, case when due_at > clock_timestamp() then 'retrying' else 'ready' end, created_at
           from messages where state = 'ready' and parked_for is null limit :most)
        union all (select to_id, 'parked', created_at from messages where parked_for is not null limit :most)
        union all (select to_id, 'out', created_at from messages where state = 'out' limit :most)
        union all (select to_id, 'accepted', created_at from inbox where taken_at is null limit :most)
    ) as open_ones group by 1, 2
""")
_LISTENERS = text("select name, paused, capacity from listeners where not retired")
_HOLDS = text("""
    select count(*), count(*) filter (where expires_at < clock_timestamp()) from holds where state = 'held'
""")
_BUDGET = text("""
    select max_tokens, held, prompt_tokens + completion_tokens, cost from budgets where id = cast(:id as uuid)
""")
_WEBHOOKS = text("select count(*) from webhook_deliveries where num_nulls(delivered_at, failed_at) = 2")


@dataclass(frozen=True, slots=True)
class Open:
    """Messages of a listener in one of `STATES`; `age`: of the oldest, in seconds."""

    listener: str
    state: str
    count: int
    age: float


@dataclass(frozen=True, slots=True)
class ListenerState:
    """`capacity`: what the live workers can hold, summed."""

    name: str
    paused: bool
    capacity: int


@dataclass(frozen=True, slots=True)
class Books:
    """Holds of calls under way, the organism's tokens and USD (`limit` None: no limit), webhooks to be told."""

    holds: int
    overdue: int
    limit: int | None
    held: int
    spent: int
    cost: Decimal
    webhooks: int


async def read_open(connection: AsyncConnection) -> list[Open]:
    """What is accepted and not closed; at most `MOST_COUNTED` of each state."""
    rows = await connection.execute(_OPEN, {"most": MOST_COUNTED})
    return [Open(row.to_id, row.state, row.open, max(0.0, row.age)) for row in rows]


async def read_listeners(connection: AsyncConnection) -> list[ListenerState]:
    """Those that are configured."""
    return [ListenerState(row.name, row.paused, row.capacity) for row in await connection.execute(_LISTENERS)]


async def read_books(connection: AsyncConnection) -> Books:
    """The ledger as a whole."""
    holds, overdue = (await connection.execute(_HOLDS)).one()
    budget = (await connection.execute(_BUDGET, {"id": ORGANISM_ID})).one_or_none()
    limit, held, spent, cost = (UNLIMITED, 0, 0, Decimal(0)) if budget is None else budget
    webhooks = (await connection.execute(_WEBHOOKS)).scalar_one()
    return Books(holds, overdue, None if limit >= UNLIMITED else limit, held, spent, cost, webhooks)
