"""Accepting redrives: a dead letter goes through the inbox like an inject, so that its commit is its acceptance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID, uuid5

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import audit
from xml_pipeline.storage.tables import dead_letters, inbox, messages, threads


@dataclass(frozen=True, slots=True)
class Redrive:
    """One request to redrive a letter that is about a message of a thread.

    `request_hash` covers what the caller sent; `body` is the envelope. `corrected`: the caller gave another payload.
    """

    letter_id: UUID
    message_id: UUID
    thread_id: UUID
    to_id: str
    request_hash: bytes
    body: bytes
    corrected: bool

    @property
    def id(self) -> UUID:
        """The new message's id: the same however often it is asked for."""
        return redrive_id(self.letter_id)


def redrive_id(letter_id: UUID) -> UUID:
    """The id of the message that a letter is redriven as."""
    return uuid5(letter_id, "redrive")


class Answer(Enum):
    """What came of it. REPEATED: by the same request before; OTHERWISE: by another one; GONE: there is no letter."""

    ACCEPTED = auto()
    REPEATED = auto()
    OTHERWISE = auto()
    KILLED = auto()
    GONE = auto()


async def accept(connection: AsyncConnection, redrive: Redrive, *, actor: str) -> Answer:
    """Store the redrive, count it as open in its thread, note it in the letter. Once that is committed it is accepted.

    The thread is locked before the letter, as everywhere; the router never locks a letter.
    """
    killed = await _lock_thread(connection, redrive.thread_id) == "killed"
    columns = (dead_letters.c.redriven_at, dead_letters.c.redrive_hash)
    locked = select(*columns).where(dead_letters.c.id == redrive.letter_id).with_for_update()
    letter = (await connection.execute(locked)).one_or_none()
    if letter is None:
        return Answer.GONE
    if letter.redriven_at is not None:
        return Answer.REPEATED if letter.redrive_hash == redrive.request_hash else Answer.OTHERWISE
    if killed:
        return Answer.KILLED
    await _insert(connection, redrive)
    await _note(connection, redrive)
    detail: audit.Detail = {
        "thread": str(redrive.thread_id),
        "message": str(redrive.id),
        "corrected": redrive.corrected,
    }
    await audit.record(connection, actor=actor, action="redrive", subject=str(redrive.letter_id), detail=detail)
    return Answer.ACCEPTED


async def _lock_thread(connection: AsyncConnection, thread_id: UUID) -> str | None:
    locked = select(threads.c.status).where(threads.c.id == thread_id).with_for_update(key_share=True)
    status: str | None = await connection.scalar(locked)
    return status


async def _insert(connection: AsyncConnection, redrive: Redrive) -> None:
    row = {
        "id": redrive.id,
        "thread_id": redrive.thread_id,
        "to_id": redrive.to_id,
        "request_hash": redrive.request_hash,
        "body": redrive.body,
        "letter_id": redrive.letter_id,
    }
    await connection.execute(insert(inbox).values(row))
    active = {"open": threads.c.open + 1, "status": "active", "last_activity": func.now()}
    await connection.execute(update(threads).where(threads.c.id == redrive.thread_id).values(active))


async def _note(connection: AsyncConnection, redrive: Redrive) -> None:
    noted = {"redriven_at": func.now(), "redrive_id": redrive.id, "redrive_hash": redrive.request_hash}
    await connection.execute(update(dead_letters).where(dead_letters.c.id == redrive.letter_id).values(noted))
    # What is handled again is no reply of its call any more.
    old = update(messages).where(messages.c.id == redrive.message_id, messages.c.outcome == "failed")
    await connection.execute(old.values(outcome="redriven"))
