"""Who did what to the organism."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.page import Page
from xml_pipeline.storage.tables import audit_log

Detail = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One entry."""

    actor: str
    action: str
    subject: str
    detail: Detail
    created_at: datetime


async def record(
    connection: AsyncConnection, *, actor: str, action: str, subject: str, detail: Detail | None = None
) -> None:
    """Note that `actor` did `action` to `subject`."""
    values = {"actor": actor, "action": action, "subject": subject, "detail": dict(detail or {})}
    await connection.execute(audit_log.insert().values(values))


async def list_entries(
    connection: AsyncConnection, *, action: str | None = None, limit: int = 50, offset: int = 0
) -> Page[AuditRecord]:
    """The entries, the latest first."""
    wanted = [audit_log.c.action == action] if action else []
    total = await connection.scalar(select(func.count()).select_from(audit_log).where(*wanted))
    columns = (audit_log.c.actor, audit_log.c.action, audit_log.c.subject, audit_log.c.detail, audit_log.c.created_at)
    statement = select(*columns).where(*wanted).order_by(audit_log.c.id.desc()).limit(limit).offset(offset)
    return Page(tuple(AuditRecord(*row) for row in await connection.execute(statement)), total or 0)
