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
# Bookings wait as long as this at most; what is not made now is made at the next try.
_NO_LONG_WAIT = text("set local lock_timeout = '500ms'")
_MAKE = text("select make_usage_month(:month, cast(:most as bigint))")


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

    A month with more than `most_moved` of these is not made. Until the transaction ends nobody books. The work is a
    function of the database's: a usage service may call it, and change no table otherwise.
    """
    await connection.execute(_NO_LONG_WAIT)
    made = await connection.scalar(_MAKE, {"month": month, "most": most_moved})
    if made == "too many":
        log.warning("month_not_made", month=f"{month:%Y-%m}", reason=f"more than {most_moved} events in {OTHERS}")
    return bool(made == "made")


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
    return now
