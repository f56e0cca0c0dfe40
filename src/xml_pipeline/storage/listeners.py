"""Listeners as rows: paused or not, and what they are doing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import audit

# By state, since each has its partial index; `<> 'closed'` would read every message there ever was.
_WORK = text("""
    with work as (
        select to_id, count(*) as waiting, 0 as outside, null::uuid as thread_id
          from messages where state = 'waiting' group by to_id
        union all
        select to_id, count(*), 0, null from messages where state = 'ready' and parked_for is null group by to_id
        union all
        select to_id, count(*), 0, null from messages where parked_for is not null group by to_id
        union all
        select to_id, 0, count(*), (array_agg(thread_id order by sent_at nulls last))[1]
          from messages where state = 'out' group by to_id
        union all
        select to_id, count(*), 0, null from inbox where taken_at is null group by to_id
    )
    select l.name, l.paused, l.capacity, coalesce(sum(w.waiting), 0) as waiting, coalesce(sum(w.outside), 0) as outside,
           (array_agg(w.thread_id) filter (where w.thread_id is not null))[1] as thread_id
      from listeners l left join work w on w.to_id = l.name
     where not l.retired group by l.name
""")
_ACTIVITY = text("""
    select from_id, count(*) as sent, max(created_at) as last_activity from messages group by from_id
""")


@dataclass(frozen=True, slots=True)
class Work:
    """What a listener has to do: `queue_depth` counts all that is not closed, `running` what is with its workers."""

    paused: bool
    capacity: int
    queue_depth: int
    running: int
    current_thread: UUID | None

    @property
    def state(self) -> str:
        """One of paused, processing, waiting, idle."""
        if self.paused:
            return "paused"
        if self.running:
            return "processing"
        return "waiting" if self.queue_depth else "idle"


@dataclass(frozen=True, slots=True)
class Activity:
    """What a listener has sent so far."""

    message_count: int
    last_activity: datetime


@dataclass(frozen=True, slots=True)
class ListenerSpec:
    """A listener as it is configured."""

    name: str
    is_agent: bool
    window: int | None


async def work(connection: AsyncConnection) -> Mapping[str, Work]:
    """What each configured listener has to do. Costs as much as there is open, whatever the history."""
    rows = await connection.execute(_WORK)
    return {
        row.name: Work(row.paused, row.capacity, int(row.waiting + row.outside), int(row.outside), row.thread_id)
        for row in rows
    }


async def activity(connection: AsyncConnection) -> Mapping[str, Activity]:
    """What each sender has sent. Reads the whole history."""
    rows = await connection.execute(_ACTIVITY)
    return {row.from_id: Activity(row.sent, row.last_activity) for row in rows}


async def set_paused(connection: AsyncConnection, name: str, paused: bool, *, actor: str) -> bool:
    """Pause or resume a listener; False where there is none of that name."""
    statement = text("update listeners set paused = :paused where name = :name and not retired")
    changed = await connection.execute(statement, {"paused": paused, "name": name})
    if changed.rowcount == 0:
        return False
    await audit.record(connection, actor=actor, action="pause" if paused else "resume", subject=name)
    return True


async def synchronise(connection: AsyncConnection, specs: Iterable[ListenerSpec]) -> None:
    """Make the rows what is configured. A listener that is gone is retired; its pause and its history stay."""
    wanted = sorted(specs, key=lambda spec: spec.name)
    # All rows first, in name order, as everyone locks them.
    await connection.execute(text("select name from listeners order by name for update"))
    parameters = {
        "names": [spec.name for spec in wanted],
        "agents": [spec.is_agent for spec in wanted],
        "windows": [spec.window for spec in wanted],
    }
    await connection.execute(
        text("""
            insert into listeners (name, is_agent, window_size)
            select * from unnest(cast(:names as text[]), cast(:agents as bool[]), cast(:windows as int[])) order by 1
            on conflict (name) do update
                set is_agent = excluded.is_agent, window_size = excluded.window_size, retired = false
        """),
        parameters,
    )
    retire = text("update listeners set retired = true where name <> all(cast(:names as text[])) and not retired")
    await connection.execute(retire, {"names": parameters["names"]})
