"""Threads as the outside sees them: lists, one by one, and their end by force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import audit
from xml_pipeline.storage.page import Page
from xml_pipeline.storage.tables import inbox, threads

STATUSES = ("active", "completed", "error", "killed")
_COLUMNS = (
    threads.c.id,
    threads.c.status,
    threads.c.participants,
    threads.c.slots,
    threads.c.created_at,
    threads.c.last_activity,
    threads.c.error,
    threads.c.tags,
)
# What is accepted and not yet taken counts as well.
_PENDING = (
    select(func.count())
    .select_from(inbox)
    .where(inbox.c.thread_id == threads.c.id, inbox.c.taken_at.is_(None))
    .correlate(threads)
    .scalar_subquery()
)
_SHOWN = tuple(column + _PENDING if column is threads.c.slots else column for column in _COLUMNS)


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """One conversation."""

    id: UUID
    status: str
    participants: tuple[str, ...]
    message_count: int
    created_at: datetime
    last_activity: datetime
    error: str | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Killed:
    """What a kill ended: messages that were open, by their listeners. `before`: the status until then."""

    thread: ThreadRecord
    before: str
    listeners: tuple[str, ...]


async def list_threads(
    connection: AsyncConnection,
    *,
    status: str | None = None,
    agent: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Page[ThreadRecord]:
    """The threads that fit, the newest first; `since` is a time of last activity."""
    wanted = _wanted(status, agent, since)
    total = await connection.scalar(select(func.count()).select_from(threads).where(*wanted))
    newest_first = (threads.c.created_at.desc(), threads.c.id.desc())
    statement = select(*_SHOWN).where(*wanted).order_by(*newest_first).limit(limit).offset(offset)
    rows = await connection.execute(statement)
    return Page(tuple(_record(row) for row in rows), total or 0)


async def get_thread(connection: AsyncConnection, thread_id: UUID) -> ThreadRecord | None:
    """One thread, None where there is none."""
    row = (await connection.execute(select(*_SHOWN).where(threads.c.id == thread_id))).one_or_none()
    return _record(row) if row else None


async def count_active(connection: AsyncConnection) -> int:
    """How many threads have something open."""
    active = select(func.count()).select_from(threads).where(threads.c.status == "active")
    return await connection.scalar(active) or 0


async def kill_thread(connection: AsyncConnection, thread_id: UUID, *, actor: str) -> Killed | None:
    """End a thread for good: whatever is open is closed, its places in the windows are free. None: no such thread.

    What is accepted and not yet taken stays open until a router has logged it.
    """
    locked = select(threads.c.status).where(threads.c.id == thread_id).with_for_update(key_share=True)
    before = await connection.scalar(locked)
    if before is None:
        return None
    listeners = await _close_open(connection, thread_id)
    statement = (
        threads.update()
        .where(threads.c.id == thread_id)
        .values(status="killed", open=_PENDING, last_activity=func.now())
        .returning(*_SHOWN)
    )
    thread = _record((await connection.execute(statement)).one())
    if before != "killed":
        await audit.record(connection, actor=actor, action="kill", subject=str(thread_id), detail={"before": before})
    return Killed(thread, before, listeners)


async def _close_open(connection: AsyncConnection, thread_id: UUID) -> tuple[str, ...]:
    closed = await connection.execute(
        text(
            "update messages set state = 'closed', outcome = 'killed', closed_at = now(), parked_for = null"
            " where thread_id = :thread and state <> 'closed' returning to_id"
        ),
        {"thread": thread_id},
    )
    return tuple(sorted(set(closed.scalars())))


def _wanted(status: str | None, agent: str | None, since: datetime | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if status is not None:
        wanted.append(threads.c.status == status)
    if agent is not None:
        wanted.append(threads.c.participants.contains([agent]))
    if since is not None:
        wanted.append(threads.c.last_activity >= since)
    return wanted


def _record(row: Sequence[Any]) -> ThreadRecord:
    id_, status, participants, slots, created_at, last_activity, error, tags = row
    return ThreadRecord(id_, status, tuple(participants), slots, created_at, last_activity, error, tags)
