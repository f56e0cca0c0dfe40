"""Closing the books: everything is recomputed and compared, as it was at one instant."""

from __future__ import annotations

import time

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.audit.model import Audit, BooksUnreadable, Check, Difference, Finding, Overspent, Pending
from xml_pipeline.audit.record_checks import RECORD_CHECKS
from xml_pipeline.audit.sum_checks import SUM_CHECKS
from xml_pipeline.audit.thread_checks import THREAD_CHECKS
from xml_pipeline.audit.tree_checks import NAMED, TREE_CHECKS
from xml_pipeline.storage.database import Database

CHECKS = (*TREE_CHECKS, *SUM_CHECKS, *RECORD_CHECKS, *THREAD_CHECKS)
SHOWN = 20

# Sums over millions of events stay in memory; there is one such transaction.
_IN_MEMORY = text("set local work_mem = '64MB'")

_PENDING = text(
    """
    select (select count(*) from holds where state = 'held'),
        (select coalesce(sum(cast(prompt_bound as bigint) + max_completion), 0) from holds where state = 'held'),
        (select count(*) from holds where state = 'held' and expires_at <= now()),
        (select count(*) from messages where parked_for is not null),
        (select coalesce(sum(parked_for), 0) from messages where parked_for is not null)
    """
)

_OVERSPENT = text(
    f"""
    select {NAMED}, max_tokens, prompt_tokens + completion_tokens as spent, count(*) over () from budgets b
    where prompt_tokens + completion_tokens > max_tokens
    order by prompt_tokens + completion_tokens - max_tokens desc, id limit :most
    """  # noqa: S608 - no input of anybody
)

_NOW = text("select now()")

# Before the snapshot is taken: a month that were detached after it had left the tables and not yet come to the sums.
_KEEP_MONTHS = text("lock table usage_events in access share mode")


async def close_books(db: Database, *, shown: int = SHOWN) -> Audit:
    """Recompute and compare; of each check's differences the first `shown` are told. Needs no service, disturbs none.

    Raises DatabaseUnavailable, and BooksUnreadable where the database's user may not read all of it.
    """
    try:
        async with db.snapshot() as connection:
            await connection.execute(_KEEP_MONTHS)
            return await recompute(connection, shown=shown)
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0].rsplit(">: ", 1)[-1]
        raise BooksUnreadable(
            f"the books at {db.place} cannot be read: {reason}; use the database user of the services"
        ) from error


async def recompute(connection: AsyncConnection, *, shown: int = SHOWN) -> Audit:
    """The same as the transaction sees it, which has to be one that sees an instant."""
    await connection.execute(_IN_MEMORY)
    at = await connection.scalar(_NOW)
    findings = [await _look(connection, check, shown) for check in CHECKS]
    pending = (await connection.execute(_PENDING)).one()
    overspent = (await connection.execute(_OVERSPENT, {"most": shown})).all()
    return Audit(
        at,
        tuple(findings),
        Pending(*(int(number) for number in pending)),
        overspent[0][3] if overspent else 0,
        tuple(Overspent(name, limit, spent) for name, limit, spent, _ in overspent),
    )


async def _look(connection: AsyncConnection, check: Check, shown: int) -> Finding:
    statement = text(f"select key, expected, found, count(*) over () from ({check.statement}) d order by 1 limit :most")  # noqa: S608
    began = time.monotonic()
    rows = (await connection.execute(statement, {"most": shown})).all()
    differences = tuple(Difference(check.name, row[0], row[1], row[2]) for row in rows)
    return Finding(check, rows[0][3] if rows else 0, differences, time.monotonic() - began)
