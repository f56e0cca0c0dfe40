"""A month of usage taken out of the books: read for a file, carried forward as sums, detached."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.storage.partitions import partition_of

CHUNK = 10_000
COLUMNS = """e.call_id::text as call_id, e.message_id::text as message_id, e.thread_id::text as thread_id, e.agent_id,
    e.model, e.provider, e.prompt_tokens, e.completion_tokens, e.cache_read_tokens, e.cache_write_tokens,
    e.reasoning_tokens, e.audio_prompt_tokens, e.audio_completion_tokens, e.image_prompt_tokens,
    e.image_completion_tokens, e.latency_us, e.cost, e.uncached_cost, e.kind, e.period, e.granted_at, e.booked_at,
    p.source as price_source, p.rates::text as price_rates, t.tags::text as tags"""

NAMES = tuple(column.split(".")[-1].split(" as ")[-1].strip() for column in COLUMNS.split(","))


class ArchiveChanged(XmlPipelineError):
    """Events were booked into the month while it was written to its file: archive it again."""

    code = "archive-changed"


class ArchiveRefused(XmlPipelineError):
    """The month is not over, or has calls that are not settled: wait until it is."""

    code = "archive-refused"


class Totals(NamedTuple):
    """What a month holds."""

    events: int
    prompt_tokens: int
    completion_tokens: int
    cost: Decimal


async def read_month(connection: AsyncConnection, month: datetime) -> AsyncIterator[Sequence[Sequence[Any]]]:
    """All events of a month in the order of their times, in pieces."""
    statement = text(  # the names are our own
        f"select {COLUMNS} from {partition_of(month)} e left join prices p on p.id = e.price_id"  # noqa: S608
        " left join threads t on t.id = e.thread_id order by e.granted_at, e.call_id"
    )
    result = await connection.stream(statement, execution_options={"yield_per": CHUNK})
    async for rows in result.partitions(CHUNK):
        yield rows


async def totals(connection: AsyncConnection, month: datetime) -> Totals:
    """What a month holds now."""
    statement = text(
        "select count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(cost), 0)"  # noqa: S608
        f" from {partition_of(month)}"  # noqa: RUF100, S608
    )
    return Totals(*(await connection.execute(statement)).one())


async def require_settled(connection: AsyncConnection, end: datetime) -> None:
    """Raises ArchiveRefused while a call that was granted before `end` may still be settled."""
    statement = text("select exists (select from holds where granted_at < :end and state = 'held')")
    if await connection.scalar(statement, {"end": end}):
        raise ArchiveRefused("calls of that month are not settled yet: try again when they are")


async def take_out(
    connection: AsyncConnection, month: datetime, written: Totals, *, file: str, sha256: str, drop: bool
) -> None:
    """Carry the month's sums forward and detach its table. Raises ArchiveChanged."""
    name = partition_of(month)
    await connection.execute(text("set local lock_timeout = '5s'"))
    await connection.execute(text("lock table usage_events in access exclusive mode"))
    if await totals(connection, month) != written:
        raise ArchiveChanged(f"{month:%Y-%m} changed while it was written: archive it again")
    await connection.execute(
        text(
            "insert into carried_forward (month, period, thread_id, agent_id, model, provider, requests, prompt_tokens,"  # noqa: S608
            " completion_tokens, cost) select :month, period, thread_id, agent_id, model, provider, count(*),"
            f" sum(prompt_tokens), sum(completion_tokens), sum(cost) from {name} group by 2, 3, 4, 5, 6"  # noqa: RUF100, S608
        ),
        {"month": month.date()},
    )
    await connection.execute(
        text("insert into usage_archives (month, events, file, sha256) values (:month, :events, :file, :sha256)"),
        {"month": month.date(), "events": written.events, "file": file, "sha256": sha256},
    )
    await connection.execute(text(f"alter table usage_events detach partition {name}"))
    kept = name.replace("usage_events_", "usage_events_archived_")
    await connection.execute(text(f"drop table {name}" if drop else f"alter table {name} rename to {kept}"))
