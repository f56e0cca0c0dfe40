"""What could not be handled, kept with its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.page import Page
from xml_pipeline.storage.tables import dead_letters

_COLUMNS = (
    dead_letters.c.id,
    dead_letters.c.message_id,
    dead_letters.c.thread_id,
    dead_letters.c.listener,
    dead_letters.c.code,
    dead_letters.c.reason,
    dead_letters.c.attempts,
    dead_letters.c.body,
    dead_letters.c.created_at,
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. `message_id` is None for bytes that never were a message."""

    id: UUID
    message_id: UUID | None
    thread_id: UUID | None
    listener: str | None
    code: str
    reason: str
    attempts: int
    body: bytes
    created_at: datetime


async def list_dead_letters(connection: AsyncConnection, *, limit: int = 50, offset: int = 0) -> Page[DeadLetter]:
    """The dead letters, the latest first."""
    total = await connection.scalar(select(func.count()).select_from(dead_letters))
    latest_first = (dead_letters.c.created_at.desc(), dead_letters.c.id)
    rows = await connection.execute(select(*_COLUMNS).order_by(*latest_first).limit(limit).offset(offset))
    return Page(tuple(DeadLetter(*row) for row in rows), total or 0)


async def get_dead_letter(connection: AsyncConnection, id_: UUID) -> DeadLetter | None:
    """One dead letter, None where there is none."""
    row = (await connection.execute(select(*_COLUMNS).where(dead_letters.c.id == id_))).one_or_none()
    return DeadLetter(*row) if row else None
