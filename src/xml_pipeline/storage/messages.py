"""The history of messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.page import Page
from xml_pipeline.storage.tables import inbox, messages

_COLUMNS = (
    messages.c.id,
    messages.c.thread_id,
    messages.c.from_id,
    messages.c.to_id,
    messages.c.kind,
    messages.c.payload_type,
    messages.c.body,
    messages.c.created_at,
    messages.c.slot,
    messages.c.state,
    messages.c.outcome,
)


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message. `payload` is its payload element in canonical form; `slot` its place in its thread, from 1."""

    id: UUID
    thread_id: UUID
    from_id: str
    to_id: str
    kind: str
    payload_type: str
    payload: bytes
    created_at: datetime
    slot: int
    state: str
    outcome: str | None


async def list_messages(
    connection: AsyncConnection,
    *,
    thread_id: UUID | None = None,
    agent: str | None = None,
    newest_first: bool = True,
    limit: int = 50,
    offset: int = 0,
) -> Page[MessageRecord]:
    """The messages of a thread, or to and from an agent, or all."""
    wanted = _wanted(thread_id, agent)
    total = await connection.scalar(select(func.count()).select_from(messages).where(*wanted))
    place = messages.c.slot if thread_id is not None else messages.c.seq
    order = place.desc() if newest_first else place.asc()
    rows = await connection.execute(select(*_COLUMNS).where(*wanted).order_by(order).limit(limit).offset(offset))
    return Page(tuple(_record(row) for row in rows), total or 0)


async def get_message(connection: AsyncConnection, message_id: UUID) -> MessageRecord | None:
    """One message, None where there is none, or none yet."""
    row = (await connection.execute(select(*_COLUMNS).where(messages.c.id == message_id))).one_or_none()
    return _record(row) if row else None


async def reply_to(connection: AsyncConnection, message_id: UUID) -> MessageRecord | None:
    """What came back to the outside caller for its inject, None while nothing has. After a redrive: the latest."""
    answers = (messages.c.answers == message_id, messages.c.to_id == "api")
    statement = select(*_COLUMNS).where(*answers).order_by(messages.c.seq.desc()).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    return _record(row) if row else None


async def forget_deliveries(connection: AsyncConnection) -> int:
    """The broker is a new one and holds nothing: whatever is out will be published again; how many that are."""
    lost = messages.update().where(messages.c.state == "out").values(confirmed=False, sent_at=text("'-infinity'"))
    return (await connection.execute(lost)).rowcount


async def count_messages(connection: AsyncConnection) -> int:
    """How many messages there are, with those that are accepted and that no router has taken yet."""
    pending = select(func.count()).select_from(inbox).where(inbox.c.taken_at.is_(None)).scalar_subquery()
    return await connection.scalar(select(func.count() + pending).select_from(messages)) or 0


def _wanted(thread_id: UUID | None, agent: str | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if thread_id is not None:
        wanted.append(messages.c.thread_id == thread_id)
    if agent is not None:
        wanted.append(or_(messages.c.from_id == agent, messages.c.to_id == agent))
    return wanted


def _record(row: Sequence[Any]) -> MessageRecord:
    return MessageRecord(*row)
