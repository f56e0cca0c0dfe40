"""Usage events by month (UTC): partitions are made ahead, so that no month begins without one."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.database import Database

AHEAD = 2
OTHERS = "usage_events_other"
_LOCK = 0x786D_7075
# Bookings wait as long as this at most; what is not made now is made at the next try.
_NO_LONG_WAIT = text("set local lock_timeout = '1s'")


def month_of(time: datetime) -> datetime:
    """The month's beginning."""
    return time.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def next_month(month: datetime) -> datetime:
    """The beginning of the month after."""
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)


def partition_of(month: datetime) -> str:
    """The name of a month's table."""
    return f"usage_events_{month:%Y_%m}"


async def make_months(db: Database, *, ahead: int = AHEAD) -> list[str]:
    """Make this month's partition and those of the next; the names of the new ones.

    Raises DatabaseUnavailable, and DBAPIError where a lock was not to be had: then it is to be tried again.
    """
    async with db.begin() as connection:
        month = month_of(await _now(connection))
    made = []
    for _ in range(ahead + 1):
        async with db.begin() as connection:
            if await _make(connection, month):
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


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
    return now


async def _make(connection: AsyncConnection, month: datetime) -> bool:
    """Make a table beside, move there what was booked without it, and attach it: bookings go on meanwhile."""
    name, end = partition_of(month), next_month(month)
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    if month in await months(connection):
        return False
    await connection.execute(_NO_LONG_WAIT)
    await connection.execute(text(f"lock table {OTHERS} in access exclusive mode"))
    await connection.execute(text(f"create table {name} (like usage_events including defaults including constraints)"))
    await connection.execute(
        text(
            f"with moved as (delete from {OTHERS} where granted_at >= :start and granted_at < :end returning *)"  # noqa: S608
            f" insert into {name} select * from moved"
        ),
        {"start": month, "end": end},
    )
    bounds = f"from ('{month.isoformat()}') to ('{end.isoformat()}')"
    await connection.execute(text(f"alter table usage_events attach partition {name} for values {bounds}"))
    return True
