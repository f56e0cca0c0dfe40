"""Usage events by month (UTC): partitions are made ahead, so that no month begins without one."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

AHEAD = 2
OTHERS = "usage_events_other"
# Events that are moved into a new month while nobody can book: a second's work.
MOST_MOVED = 100_000
_LOCK = 0x786D_7075
# Bookings wait as long as this at most; what is not made now is made at the next try.
_NO_LONG_WAIT = text("set local lock_timeout = '500ms'")
_COUNT_OUTSIDE = text(
    f"select count(*) from (select from {OTHERS} where granted_at >= :start and granted_at < :end limit :limit) o"  # noqa: S608
)


def month_of(time: datetime) -> datetime:
    """The month's beginning."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    """The beginning of the month after."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def partition_of(month: datetime) -> str:
    """The name of a month's table."""
    return f"usage_events_{month:%Y_%m}"


async def make_months(db: Database, *, now: datetime | None = None, ahead: int = AHEAD) -> list[str]:
    """Make this month's partition and those of the next, each in its own short transaction; the names of the new ones.

    `now` is the database's unless given. Several at once do no harm. Raises DatabaseUnavailable, and DBAPIError where a
    lock was not to be had: then it is to be tried again.
    """
    async with db.begin() as connection:
        month = month_of(now or await _now(connection))
        there = await months(connection)
    made = []
    for _ in range(ahead + 1):
        if month not in there:
            async with db.begin() as connection:
                if await add_month(connection, month, most_moved=MOST_MOVED):
                    made.append(partition_of(month))
        month = next_month(month)
    return made


async def months(connection: AsyncConnection) -> list[datetime]:
    """The months that have a partition, the oldest first."""
    rows = await connection.execute(
        text(
            "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
            " where i.inhparent = 'usage_events'::regclass and c.relname <> :others order by 1"
        ),
        {"others": OTHERS},
    )
    return [datetime.strptime(row[0], "usage_events_%Y_%m").replace(tzinfo=UTC) for row in rows]


async def months_outside(connection: AsyncConnection, before: datetime) -> list[datetime]:
    """The months before that time of which there are events that are in no month's partition, the oldest first."""
    rows = await connection.scalars(
        text(f"select distinct date_trunc('month', granted_at, 'UTC') from {OTHERS} where granted_at < :before"),  # noqa: S608
        {"before": before},
    )
    return sorted(month_of(row) for row in rows)


async def add_month(connection: AsyncConnection, month: datetime, *, most_moved: int | None = None) -> bool:
    """Make a month's partition unless it is there, with the events of it that were in none; whether it was made.

    A month with more than `most_moved` of these is not made. Until the transaction ends nobody books.
    """
    await connection.execute(_NO_LONG_WAIT)
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    if month in await months(connection):
        return False
    if most_moved is not None and await _outside(connection, month, most_moved + 1) > most_moved:
        log.warning("month_not_made", month=f"{month:%Y-%m}", reason=f"more than {most_moved} events in {OTHERS}")
        return False
    name, end = partition_of(month), next_month(month)
    # Made and then attached: `create table ... partition of` would lock out all who read, too.
    await connection.execute(text(f"create table {name} (like usage_events including all)"))
    # Who books waits at the door: an event on its way to where it does not belong any more would be refused.
    await connection.execute(text("lock table only usage_events in share row exclusive mode"))
    await connection.execute(text(f"lock table {OTHERS} in access exclusive mode"))
    if await _outside(connection, month, 1):
        await _move_in(connection, month)
    bounds = f"from ('{month.isoformat()}') to ('{end.isoformat()}')"
    await connection.execute(text(f"alter table usage_events attach partition {name} for values {bounds}"))
    return True


async def _outside(connection: AsyncConnection, month: datetime, limit: int) -> int:
    """How many events of the month are in none, counted to the limit."""
    span = {"start": month, "end": next_month(month), "limit": limit}
    return int(await connection.scalar(_COUNT_OUTSIDE, span) or 0)


async def _move_in(connection: AsyncConnection, month: datetime) -> None:
    await connection.execute(
        text(
            f"with moved as (delete from {OTHERS} where granted_at >= :start and granted_at < :end returning *)"  # noqa: S608
            f" insert into {partition_of(month)} select * from moved"
        ),
        {"start": month, "end": next_month(month)},
    )


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
    return now
