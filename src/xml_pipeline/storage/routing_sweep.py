"""What a router looks for once a second: what nobody took, what nobody answered, what nobody confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.routing_batch import RoutingTransaction, driver_of, released
from xml_pipeline.storage.routing_rows import Released

_UNTAKEN = """
select id from inbox
where taken_at is null and created_at < clock_timestamp() - make_interval(secs => $1) order by created_at limit $2
"""

# `overtaken`: a message of the same listener that was sent out later has already ended. What the broker has never
# confirmed is not overdue: it is published again, and its time begins anew.
_OVERDUE = """
with late as materialized (
    select m.id, m.to_id, m.attempt, m.sent_at, m.seq from messages m
    where m.state = 'out' and m.confirmed and m.deadline < clock_timestamp() order by m.deadline limit $1
), ended as (
    select c.to_id, max(c.sent_at) as sent_at from messages c
    where c.seq > (select min(seq) from late) and c.state = 'closed' and c.to_id in (select to_id from late)
    group by c.to_id
)
select l.id, l.to_id, l.attempt, coalesce(e.sent_at > l.sent_at, false) as overtaken
from late l left join ended e on e.to_id = l.to_id
"""

_UNCONFIRMED = """
with stale as (
    select m.id from messages m
    where m.state = 'out' and not m.confirmed and m.sent_at < clock_timestamp() - make_interval(secs => $1)
    order by m.sent_at limit $2 for update skip locked
)
update messages m set sent_at = clock_timestamp(),
    deadline = clock_timestamp() + make_interval(secs => coalesce(t.timeout, $5))
from stale left join lateral (
    select d.timeout from messages s join unnest($3::text[], $4::float8[]) d(name, timeout) on d.name = s.to_id
    where s.id = stale.id
) t on true
where m.id = stale.id
returning m.id, m.thread_id, m.slot, m.from_id, m.to_id, m.kind, m.body, m.call_id, m.remaining, m.attempt, m.seq
"""

_ORPHANED = """
select m.id from listeners l join messages m on m.to_id = l.name and m.state = 'ready' and m.parked_for is null
where l.retired
union all
select m.id from listeners l join messages m on m.to_id = l.name and m.parked_for is not null where l.retired
limit $1
"""

_CAPACITY = """
with wanted as (
    select * from unnest($1::text[], $2::int[]) w(name, capacity)
), locked as (
    select l.name, w.capacity from listeners l join wanted w on w.name = l.name
    where l.capacity < w.capacity or ($3 and l.capacity > w.capacity) order by l.name for update of l
)
update listeners l set capacity = k.capacity from locked k where l.name = k.name
"""


@dataclass(frozen=True, slots=True)
class OverdueRow:
    """A message whose deadline has passed."""

    id: UUID
    to_id: str
    attempt: int
    overtaken: bool


async def untaken_inbox(connection: AsyncConnection, *, older_than: float, limit: int) -> list[UUID]:
    """Accepted injects that no router has taken for so many seconds, the oldest first."""
    driver = await driver_of(connection)
    return [row["id"] for row in await driver.fetch(_UNTAKEN, older_than, limit)]


async def overdue_messages(connection: AsyncConnection, *, limit: int) -> list[OverdueRow]:
    """Messages that are out beyond their deadline."""
    driver = await driver_of(connection)
    return [OverdueRow(**row) for row in await driver.fetch(_OVERDUE, limit)]


async def orphaned_messages(connection: AsyncConnection, *, limit: int) -> list[UUID]:
    """Messages at the head of their mailbox whose listener is retired."""
    driver = await driver_of(connection)
    return [row["id"] for row in await driver.fetch(_ORPHANED, limit)]


async def claim_unconfirmed(
    connection: AsyncConnection,
    timeouts: Mapping[str, float],
    *,
    older_than: float,
    limit: int,
    default_timeout: float,
) -> list[Released]:
    """Messages that are out and were not confirmed for so many seconds.

    Their time begins anew, so that no other router takes them for the same reason.
    """
    driver = await driver_of(connection)
    async with driver.transaction(isolation="read_committed"):
        columns = list(timeouts), list(timeouts.values())
        rows = await driver.fetch(_UNCONFIRMED, older_than, limit, *columns, default_timeout)
        rows.sort(key=lambda row: row["seq"])
        replies = await RoutingTransaction(driver).replies(rows)
    return [released(row, replies.get(row["id"], ())) for row in rows]


async def save_capacities(connection: AsyncConnection, capacities: Mapping[str, int], *, lower: bool) -> None:
    """Write what the live workers can hold, where it changed; without `lower`, only where it is more than before."""
    driver = await driver_of(connection)
    async with driver.transaction(isolation="read_committed"):
        await driver.fetch(_CAPACITY, list(capacities), list(capacities.values()), lower)
