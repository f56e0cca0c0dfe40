"""Closing the books: everything is recomputed and compared, as it was at one instant."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.audit.ledger_checks import LEDGER_CHECKS
from xml_pipeline.audit.model import Audit, Check, Difference, Finding, Pending
from xml_pipeline.audit.record_checks import RECORD_CHECKS
from xml_pipeline.storage.database import Database

CHECKS = (*LEDGER_CHECKS, *RECORD_CHECKS)
SHOWN = 20

_PENDING = text(
    """
    select (select count(*) from holds where state = 'held'),
        (select coalesce(sum(cast(prompt_bound as bigint) + max_completion), 0) from holds where state = 'held'),
        (select count(*) from messages where parked_for is not null),
        (select count(*) from budgets where prompt_tokens + completion_tokens > max_tokens)
    """
)


# Before the snapshot is taken: a month that were detached after it had left the tables and not yet come to the sums.
_KEEP_MONTHS = text("lock table usage_events in access share mode")


async def close_books(db: Database) -> Audit:
    """Recompute and compare. Needs no service, and disturbs none. Raises DatabaseUnavailable."""
    async with db.snapshot() as connection:
        await connection.execute(_KEEP_MONTHS)
        findings = [await _look(connection, check) for check in CHECKS]
        held = (await connection.execute(_PENDING)).one()
    return Audit(tuple(findings), Pending(*(int(number) for number in held)))


async def _look(connection: AsyncConnection, check: Check) -> Finding:
    statement = text(f"select key, expected, found, count(*) over () from ({check.statement}) d order by 1 limit :most")  # noqa: S608
    rows = (await connection.execute(statement, {"most": SHOWN})).all()
    differences = tuple(Difference(check.name, row[0], row[1], row[2]) for row in rows)
    return Finding(check, rows[0][3] if rows else 0, differences)
