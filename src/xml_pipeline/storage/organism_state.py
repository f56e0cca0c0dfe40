"""What is asked of the whole organism: to stop, to begin a new period of usage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import audit


@dataclass(frozen=True, slots=True)
class OrganismState:
    """The organism's row, and the database's clock when it was read."""

    stop_requested_at: datetime | None
    usage_period: int
    now: datetime

    def stops(self, started_at: datetime) -> bool:
        """Whether a service that started then, by the database's clock, is asked to stop."""
        return self.stop_requested_at is not None and self.stop_requested_at > started_at


async def read_state(connection: AsyncConnection) -> OrganismState:
    """The row as it is now."""
    statement = text("""
        select stop_requested_at, coalesce(usage_period, 1), clock_timestamp()
          from (values (1)) as one (id) left join organism_state using (id)
    """)
    return OrganismState(*(await connection.execute(statement)).one())


async def database_time(connection: AsyncConnection) -> datetime:
    """The database's clock."""
    now: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
    return now


async def request_stop(connection: AsyncConnection, *, actor: str) -> None:
    """Ask every service that runs now to drain and end."""
    await connection.execute(
        text("""
            insert into organism_state (id, stop_requested_at) values (1, clock_timestamp())
            on conflict (id) do update set stop_requested_at = excluded.stop_requested_at
        """)
    )
    await audit.record(connection, actor=actor, action="stop", subject="organism")


async def reset_usage(connection: AsyncConnection, *, actor: str) -> int:
    """Begin a new period, in which all sums are zero; budgets stay. The new period's number."""
    statement = text("""
        insert into organism_state (id, usage_period) values (1, 2)
        on conflict (id) do update set usage_period = organism_state.usage_period + 1
        returning usage_period
    """)
    period: int = (await connection.execute(statement)).scalar_one()
    begun = text("insert into usage_periods (period, started_at) values (:period, clock_timestamp())")
    await connection.execute(begun, {"period": period})
    await audit.record(connection, actor=actor, action="usage-reset", subject="organism", detail={"period": period})
    return period


async def read_periods(connection: AsyncConnection) -> tuple[tuple[int, datetime], ...]:
    """All periods of usage with their beginning, the oldest first."""
    rows = await connection.execute(text("select period, started_at from usage_periods order by period"))
    return tuple((row[0], row[1]) for row in rows)
