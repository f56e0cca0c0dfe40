"""Messages that are parked go on when all budgets of their call have room for it, whoever made that room."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.routing_batch import driver_of

# No budget is locked: who is wrong by a moment is parked again by the ledger, or goes on with the next look.
_ROOM = """
not exists (
    select from budgets t cross join lateral unnest(t.ancestors || t.id) as path (id) join budgets b on b.id = path.id
    where t.id = m.thread_id and b.prompt_tokens + b.completion_tokens > b.max_tokens - m.parked_for
) and not exists (
    select from budgets a where a.level = 3 and a.thread_id = m.thread_id and a.agent_id = m.to_id
                            and a.prompt_tokens + a.completion_tokens > a.max_tokens - m.parked_for
)
"""

# Materialised: else the order may be had by reading every message there ever was.
_FIND = f"""
with m as materialized (select id, thread_id, to_id, seq, parked_for from messages where parked_for is not null)
select m.id, m.thread_id from m where {_ROOM} order by m.seq limit $1
"""  # noqa: S608

_LOCK = "select from threads where id = any($1::uuid[]) order by id for no key update"

_UNPARK = f"""
update messages m set due_at = null, parked_for = null
where m.id = any($1::uuid[]) and m.state || '' = 'ready' and m.parked_for is not null and {_ROOM}
returning m.to_id
"""  # noqa: S608


async def unpark(connection: AsyncConnection, *, limit: int) -> Sequence[str]:
    """Make parked messages due whose budgets have room, the oldest first; the listener of each of them.

    A transaction of its own: threads are locked, and what is read before that is read again.
    """
    driver = await driver_of(connection)
    async with driver.transaction(isolation="read_committed"):
        found = await driver.fetch(_FIND, limit)
        if not found:
            return ()
        ids: list[UUID] = [row["id"] for row in found]
        await driver.fetch(_LOCK, list({row["thread_id"] for row in found}))
        return [row["to_id"] for row in await driver.fetch(_UNPARK, ids)]
