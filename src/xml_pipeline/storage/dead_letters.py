"""What could not be handled, kept with its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import audit
from xml_pipeline.storage.page import Page
from xml_pipeline.storage.tables import dead_letters, inbox, messages, threads

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
    dead_letters.c.redriven_at,
    dead_letters.c.redrive_id,
    dead_letters.c.redrive_hash,
    messages.c.from_id,
    messages.c.kind,
    messages.c.payload_type,
    threads.c.status,
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter. `message_id` is None for bytes that never were a message.

    `body` is a payload, or the whole envelope of what never became a message. The three `redri...` are None until it
    is redriven; `redrive_hash` is of the request that did. The last four are of its message and its thread.
    """

    id: UUID
    message_id: UUID | None
    thread_id: UUID | None
    listener: str | None
    code: str
    reason: str
    attempts: int
    body: bytes
    created_at: datetime
    redriven_at: datetime | None = None
    redrive_id: UUID | None = None
    redrive_hash: bytes | None = None
    from_id: str | None = None
    kind: str | None = None
    payload_type: str | None = None
    thread_status: str | None = None


class Deletion(Enum):
    """What became of the wish to delete a letter. PENDING: it is being redriven, and no router has taken that yet."""

    DONE = auto()
    UNKNOWN = auto()
    PENDING = auto()


async def list_dead_letters(
    connection: AsyncConnection,
    *,
    listener: str | None = None,
    thread_id: UUID | None = None,
    code: str | None = None,
    redriven: bool | None = None,
    since: datetime | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page[DeadLetter]:
    """The dead letters that fit, the latest first; `since` is when they were written."""
    wanted = _wanted(listener, thread_id, code, redriven, since)
    total = await connection.scalar(select(func.count()).select_from(dead_letters).where(*wanted))
    latest_first = (dead_letters.c.created_at.desc(), dead_letters.c.id)
    rows = await connection.execute(_letters().where(*wanted).order_by(*latest_first).limit(limit).offset(offset))
    return Page(tuple(DeadLetter(*row) for row in rows), total or 0)


async def get_dead_letter(connection: AsyncConnection, id_: UUID) -> DeadLetter | None:
    """One dead letter, None where there is none."""
    row = (await connection.execute(_letters().where(dead_letters.c.id == id_))).one_or_none()
    return DeadLetter(*row) if row else None


async def delete_dead_letter(connection: AsyncConnection, id_: UUID, *, actor: str) -> Deletion:
    """Delete one for good, unless a router is still to read it."""
    letter = dead_letters.c
    columns = (letter.code, letter.listener, letter.thread_id, letter.message_id, letter.redrive_id)
    locked = select(*columns).where(letter.id == id_).with_for_update()
    row = (await connection.execute(locked)).one_or_none()
    if row is None:
        return Deletion.UNKNOWN
    if row.redrive_id is not None and await _is_pending(connection, row.redrive_id):
        return Deletion.PENDING
    await connection.execute(delete(dead_letters).where(letter.id == id_))
    named = {"code": row.code, "listener": row.listener, "thread": row.thread_id, "message": row.message_id}
    detail = {name: str(value) for name, value in named.items() if value is not None}
    await audit.record(connection, actor=actor, action="dead-letter-delete", subject=str(id_), detail=detail)
    return Deletion.DONE


async def _is_pending(connection: AsyncConnection, redrive_id: UUID) -> bool:
    untaken = select(inbox.c.id).where(inbox.c.id == redrive_id, inbox.c.taken_at.is_(None))
    return await connection.scalar(untaken) is not None


def _letters() -> Select[Any]:
    return (
        select(*_COLUMNS)
        .select_from(dead_letters)
        .outerjoin(messages, messages.c.id == dead_letters.c.message_id)
        .outerjoin(threads, threads.c.id == dead_letters.c.thread_id)
    )


def _wanted(
    listener: str | None, thread_id: UUID | None, code: str | None, redriven: bool | None, since: datetime | None
) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if listener is not None:
        wanted.append(dead_letters.c.listener == listener)
    if thread_id is not None:
        wanted.append(dead_letters.c.thread_id == thread_id)
    if code is not None:
        wanted.append(dead_letters.c.code == code)
    if redriven is not None:
        wanted.append(dead_letters.c.redriven_at.is_not(None) if redriven else dead_letters.c.redriven_at.is_(None))
    if since is not None:
        wanted.append(dead_letters.c.created_at >= since)
    return wanted
