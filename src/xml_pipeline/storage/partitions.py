"""The months of `usage_events`: each a partition, made before its first event comes. Months are those of UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

log = structlog.get_logger(__name__)

# Any number that nothing else in the database locks.
_MONTHS_LOCK = 0x6D6F_6E74
# This waits for whoever books, and holds up whoever comes after: not for long.
_LOCK_TIMEOUT = "500ms"
_MONTHS_OF_A_YEAR = 12
_OTHER = "usage_events_other"
# Events that are moved while nobody can book: a second's work.
_MOST_MOVED = 100_000


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, time: datetime) -> Month:
        """The month that a time is in."""
        utc = time.astimezone(UTC)
        return cls(utc.year, utc.month)

    def plus(self, months: int) -> Month:
        """So many months later."""
        years, number = divmod(self.number - 1 + months, _MONTHS_OF_A_YEAR)
        return Month(self.year + years, number + 1)

    @property
    def begin(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment of the next."""
        return self.plus(1).begin

    @property
    def day(self) -> date:
        """Its first day: what it is called in the database."""
        return date(self.year, self.number, 1)

    @property
    def table(self) -> str:
        """The partition with its events."""
        return f"usage_events_{self.year:04}_{self.number:02}"

    def __str__(self) -> str:
        """As in ISO 8601."""
        return f"{self.year:04}-{self.number:02}"


_PARTITIONS = text(
    """
    select relname from pg_inherits join pg_class on oid = inhrelid
    where inhparent = cast('usage_events' as regclass)
    """
)
_COUNT_OUTSIDE = text(
    f"select count(*) from (select from {_OTHER} where granted_at >= :begin and granted_at < :end limit :limit) outside"  # noqa: S608
)


async def ensure_months(connection: AsyncConnection, now: datetime, ahead: int = 2) -> list[Month]:
    """Make what is missing of this month and the next `ahead` ones; what was made. Several at once do no harm.

    The transaction has to be short: until it ends nobody books, or reads what is in no month. The driver's 55P03 means
    that somebody was at it for too long; a later try is right.
    """
    first = Month.of(now)
    return await add_months(connection, [first.plus(number) for number in range(ahead + 1)], most_moved=_MOST_MOVED)


async def add_months(
    connection: AsyncConnection, months: Sequence[Month], *, most_moved: int | None = None
) -> list[Month]:
    """Make those of these months that are missing; what was made. Events of theirs that were in no month move in.

    A month with more than `most_moved` of them is not made: they stay where they are. For locks see `ensure_months`.
    """
    there = await partitions(connection)
    if all(month.table in there for month in months):
        return []
    await connection.execute(text(f"set local lock_timeout = '{_LOCK_TIMEOUT}'"))
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MONTHS_LOCK})
    there = await partitions(connection)
    missing = [month for month in months if month.table not in there]
    return [month for month in missing if await _add(connection, month, most_moved)]


async def partitions(connection: AsyncConnection) -> set[str]:
    """The names of all partitions."""
    return set(await connection.scalars(_PARTITIONS))


async def _add(connection: AsyncConnection, month: Month, most_moved: int | None) -> bool:
    outside = await _outside(connection, month, most_moved)
    if most_moved is not None and outside > most_moved:
        log.warning("month_not_made", month=str(month), reason=f"more than {most_moved} events of it are in {_OTHER}")
        return False
    # A table that is made and then attached; `create table ... partition of` would lock out all who read, too.
    await connection.execute(text(f"create table {month.table} (like usage_events including all)"))
    # Who books waits at the door: an event on its way to where it does not belong any more would be refused.
    await connection.execute(text("lock table only usage_events in share row exclusive mode"))
    await connection.execute(text(f"lock table {_OTHER} in access exclusive mode"))
    if outside or await _outside(connection, month, 0):
        await _move_in(connection, month)
    await connection.execute(
        text(
            f"alter table usage_events attach partition {month.table} "
            f"for values from ('{month.begin.isoformat()}') to ('{month.end.isoformat()}')"
        )
    )
    return True


async def _outside(connection: AsyncConnection, month: Month, most: int | None) -> int:
    """How many events of the month are in none, counted to one more than `most`."""
    limit = None if most is None else most + 1
    span = {"begin": month.begin, "end": month.end, "limit": limit}
    return int(await connection.scalar(_COUNT_OUTSIDE, span) or 0)


async def _move_in(connection: AsyncConnection, month: Month) -> None:
    move = f"""
        with moved as (delete from {_OTHER} where granted_at >= :begin and granted_at < :end returning *)
        insert into {month.table} select * from moved
    """  # noqa: S608 - names of tables, made here
    await connection.execute(text(move), {"begin": month.begin, "end": month.end})
