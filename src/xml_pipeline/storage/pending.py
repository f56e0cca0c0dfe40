"""What was accepted and no router has taken yet: part of the history from the moment that its caller has the answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.envelope.model import API
from xml_pipeline.storage.tables import inbox, threads


@dataclass(frozen=True, slots=True)
class Pending:
    """One accepted inject; `body` is its envelope, `slot` the place in its thread that it is about to get, from 1."""

    id: UUID
    thread_id: UUID
    to_id: str
    body: bytes
    created_at: datetime
    slot: int


async def list_pending(
    connection: AsyncConnection, *, thread_id: UUID | None = None, agent: str | None = None, limit: int
) -> tuple[Pending, ...]:
    """The newest that are not taken, the newest first: of a thread, or to and from an agent, or all."""
    wanted: list[ColumnElement[bool]] = [inbox.c.taken_at.is_(None)]
    if thread_id is not None:
        wanted.append(inbox.c.thread_id == thread_id)
    if agent is not None and agent != API:
        wanted.append(inbox.c.to_id == agent)
    columns = (inbox.c.id, inbox.c.thread_id, inbox.c.to_id, inbox.c.body, inbox.c.created_at)
    newest = select(*columns).where(*wanted).order_by(inbox.c.created_at.desc(), inbox.c.id.desc()).limit(limit)
    found = newest.subquery("newest")
    place = func.row_number().over(partition_by=found.c.thread_id, order_by=(found.c.created_at, found.c.id))
    statement = (
        select(found, threads.c.slots + place)
        .join_from(found, threads, threads.c.id == found.c.thread_id)
        .order_by(found.c.created_at.desc(), found.c.id.desc())
    )
    return tuple(Pending(*row) for row in await connection.execute(statement))
