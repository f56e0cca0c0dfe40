"""A month of usage taken out of the books: read for a file, carried forward as sums, detached."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.failpoints import failpoint
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import database_time
from xml_pipeline.storage.partitions import month_of, months, months_outside, next_month, partition_of

CHUNK = 10_000
COLUMNS = """e.call_id::text as call_id, e.message_id::text as message_id, e.thread_id::text as thread_id, e.agent_id,
    e.model, e.provider, e.prompt_tokens, e.completion_tokens, e.cache_read_tokens, e.cache_write_tokens,
    e.reasoning_tokens, e.audio_prompt_tokens, e.audio_completion_tokens, e.image_prompt_tokens,
    e.image_completion_tokens, e.latency_us, e.cost, e.uncached_cost, e.kind, e.period, e.granted_at, e.booked_at,
    p.source as price_source, p.rates::text as price_rates, t.tags::text as tags"""

NAMES = tuple(column.split(".")[-1].split(" as ")[-1].strip() for column in COLUMNS.split(","))

_LOCK = 0x786D_6172
_NEVER_IDLE_TOO_LONG = text("set local idle_in_transaction_session_timeout = 0")
# Shorter than the server waits before it looks for a deadlock, so that it is not a booking that has to give way.
_NO_LONG_WAIT = text("set local lock_timeout = '500ms'")
_IN_MONTH = "granted_at >= :start and granted_at < :end"


class ArchiveChanged(XmlPipelineError):
    """Events of the month were booked or charged anew while it was written to its file: archive it again."""

    code = "archive-changed"


class ArchiveRefused(XmlPipelineError):
    """The month is not over, has calls that are not settled, or is being archived: wait until that has changed."""

    code = "archive-refused"


class Totals(NamedTuple):
    """What a month holds. The last three change with everything that can become of an event."""

    events: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal
    uncached_cost: Decimal
    prices: Decimal
    booked: Decimal


_TOTALS = text(
    "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0),"  # noqa: S608
    " coalesce(sum(uncached_cost), 0), coalesce(sum(price_id), 0), coalesce(sum(extract(epoch from booked_at)), 0)"
    f" from usage_events where {_IN_MONTH}"
)
_EVENTS = text(
    f"select {COLUMNS} from usage_events e left join prices p on p.id = e.price_id"  # noqa: S608 - the names are our own
    f" left join threads t on t.id = e.thread_id where {_IN_MONTH} order by e.granted_at, e.call_id"
)
_CARRY = text(
    "insert into carried_forward (month, period, thread_id, agent_id, model, provider, requests, prompt_tokens,"  # noqa: S608
    " completion_tokens, cost) select cast(:month as date), period, thread_id, agent_id, model, provider, count(*),"
    f" sum(prompt_tokens), sum(completion_tokens), sum(cost) from usage_events where {_IN_MONTH}"
    " group by 2, 3, 4, 5, 6"
)
_CARRIED = text(
    "select coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),"
    " coalesce(sum(cost), 0) from carried_forward where month = :month"
)


@asynccontextmanager
async def archiving_alone(db: Database) -> AsyncIterator[AsyncConnection]:
    """Nobody else archives meanwhile. The connection that is given is the one that sees to it.

    Raises ArchiveRefused where somebody does, and DatabaseUnavailable.
    """
    async with db.begin() as guard:
        await guard.execute(_NEVER_IDLE_TOO_LONG)
        if not await guard.scalar(text("select pg_try_advisory_xact_lock(:key)"), {"key": _LOCK}):
            raise ArchiveRefused("another archive is under way: wait for its end")
        yield guard


async def months_to_archive(connection: AsyncConnection, before: datetime) -> list[datetime]:
    """The months before `before` that are not archived, the oldest first, whether they have a partition or not.

    Raises ArchiveRefused where one of them is not over, or a call of theirs is not settled.
    """
    this_month = month_of(await database_time(connection))
    if before > this_month:
        raise ArchiveRefused(f"{this_month:%Y-%m} is not over: archive months before {this_month:%Y-%m}")
    unsettled = text("select min(granted_at) from holds where granted_at < :before and state = 'held'")
    oldest = await connection.scalar(unsettled, {"before": before})
    if oldest is not None:
        month = f"{month_of(oldest):%Y-%m}"
        raise ArchiveRefused(f"calls of {month} are not settled yet: try again when they are, or before {month}")
    archived = set(await connection.scalars(text("select month from usage_archives")))
    found = {*await months(connection), *await months_outside(connection, before)}
    return sorted(month for month in found if month < before and month.date() not in archived)


async def read_month(connection: AsyncConnection, month: datetime) -> AsyncGenerator[Sequence[Sequence[Any]], None]:
    """All events of a month in the order of their times, in pieces, of which one at a time is in memory."""
    result = await connection.stream(_EVENTS, _span(month), execution_options={"yield_per": CHUNK})
    async for rows in result.partitions(CHUNK):
        yield rows


async def totals(connection: AsyncConnection, month: datetime) -> Totals:
    """What a month holds now."""
    return Totals(*(await connection.execute(_TOTALS, _span(month))).one())


async def take_out(
    connection: AsyncConnection, month: datetime, written: Totals, *, file: str, sha256: str, drop: bool
) -> None:
    """Carry the month's sums forward and detach its table, which stays under another name or is dropped.

    Whoever corrects events waits while it is compared with what was `written`, whoever books for a moment at the end.
    Raises ArchiveChanged. The driver's 55P03 means that somebody was at the tables for too long: a later try is right.
    """
    name, day = partition_of(month), month.date()
    await connection.execute(_CARRY, {"month": day, **_span(month)})
    await connection.execute(_NO_LONG_WAIT)
    await connection.execute(text(f"lock table {name} in share row exclusive mode"))
    carried = tuple((await connection.execute(_CARRIED, {"month": day})).one())
    if await totals(connection, month) != written or carried != tuple(written[:4]):
        raise ArchiveChanged(f"{month:%Y-%m} changed while it was written: archive it again")
    await connection.execute(
        text("insert into usage_archives (month, events, file, sha256) values (:month, :events, :file, :sha256)"),
        {"month": day, "events": written.events, "file": file, "sha256": sha256},
    )
    await connection.execute(text(f"alter table usage_events detach partition {name}"))
    kept = name.replace("usage_events_", "usage_events_archived_")
    await connection.execute(text(f"drop table {name}" if drop else f"alter table {name} rename to {kept}"))
    failpoint("archive.before-commit")


def _span(month: datetime) -> dict[str, datetime]:
    return {"start": month, "end": next_month(month)}
