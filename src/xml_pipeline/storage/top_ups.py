"""Giving a thread more tokens: added once for each request, however often that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.organism.budgets import UNLIMITED, Budgets
from xml_pipeline.storage import audit
from xml_pipeline.storage.budget_tree import add_thread_budgets

_STATUS = text("select status from threads where id = :thread")

_KNOWN = text("select request_hash from top_ups where id = :id")

_LOCK = text("select max_tokens from budgets where id = :thread for update")

_NOTE = text("""
    insert into top_ups (id, thread_id, tokens, request_hash, actor)
    values (:id, :thread_id, :tokens, :request_hash, :actor) on conflict do nothing
""")

# What is told of thresholds is told again once they are reached again; that nothing is left is always told.
_ADD = text("""
    update budgets set topped_up = topped_up + :tokens, fired = least(fired, coalesce((
        select max(t) from unnest(cast(:thresholds as int[]) || 100) as t
        where (prompt_tokens + completion_tokens) * 100.0 >= t * cast(max_tokens + :tokens as numeric)
    ), 0))
    where id = :thread_id
""")


@dataclass(frozen=True, slots=True)
class TopUp:
    """One request. `id` is derived from the Idempotency-Key where there is one; `request_hash` covers what was sent."""

    id: UUID
    thread_id: UUID
    tokens: int
    request_hash: bytes
    actor: str


@dataclass(frozen=True, slots=True)
class NewBudgets:
    """What the budgets of a thread that has none yet begin with, and the percents that are told of."""

    max_tokens: int
    budgets: Budgets


class TopUpAnswer(Enum):
    """What came of it. REPEATED: by the same request before; CONFLICT: its key was used with another one."""

    ADDED = auto()
    REPEATED = auto()
    CONFLICT = auto()
    UNKNOWN = auto()
    KILLED = auto()


async def top_up(connection: AsyncConnection, wanted: TopUp, new: NewBudgets) -> TopUpAnswer:
    """Add to a thread's own budget, as far as unlimited goes.

    Takes no thread's lock, and of budgets that of the thread's own alone.
    """
    if (known := await _known(connection, wanted)) is not None:
        return known
    status = await connection.scalar(_STATUS, {"thread": wanted.thread_id})
    if status is None:
        return TopUpAnswer.UNKNOWN
    if status == "killed":
        return TopUpAnswer.KILLED
    await add_thread_budgets(connection, [wanted.thread_id], new.max_tokens, new.budgets)
    before: int = (await connection.execute(_LOCK, {"thread": wanted.thread_id})).scalar_one()
    tokens = min(wanted.tokens, UNLIMITED - before)
    if tokens <= 0:
        return TopUpAnswer.ADDED
    return await _add(connection, wanted, tokens, new.budgets.thresholds)


async def _add(connection: AsyncConnection, wanted: TopUp, tokens: int, thresholds: Sequence[int]) -> TopUpAnswer:
    values = {"thread_id": wanted.thread_id, "tokens": tokens}
    noted = {"id": wanted.id, "request_hash": wanted.request_hash, "actor": wanted.actor}
    if not (await connection.execute(_NOTE, values | noted)).rowcount:
        # The same key came in between; whoever was first has committed by now.
        return await _known(connection, wanted) or TopUpAnswer.CONFLICT
    await connection.execute(_ADD, values | {"thresholds": list(thresholds)})
    subject = str(wanted.thread_id)
    await audit.record(connection, actor=wanted.actor, action="top-up", subject=subject, detail={"tokens": tokens})
    return TopUpAnswer.ADDED


async def _known(connection: AsyncConnection, wanted: TopUp) -> TopUpAnswer | None:
    request_hash: bytes | None = await connection.scalar(_KNOWN, {"id": wanted.id})
    if request_hash is None:
        return None
    return TopUpAnswer.REPEATED if request_hash == wanted.request_hash else TopUpAnswer.CONFLICT
