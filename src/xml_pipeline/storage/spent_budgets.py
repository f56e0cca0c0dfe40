"""Which budgets of a thread's path have nothing left, looked at without a lock: it is the ledger that is exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.budget_rows import Level, thread_node

_EXHAUSTED = text("""
    select id, level, tag_key || '=' || tag_value, max_tokens, prompt_tokens + completion_tokens from budgets
    where id = any(cast(:ids as uuid[])) and prompt_tokens + completion_tokens >= max_tokens
""")


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A budget that is spent. `tag`: `key=value`, None of others; `new`: the thread had not begun."""

    level: Level
    tag: str | None
    max_tokens: int
    spent: int
    new: bool = False


async def exhausted_threads(
    connection: AsyncConnection, tags: Mapping[UUID, Mapping[str, str]]
) -> dict[UUID, Exhausted]:
    """Of these threads with their tags those that can spend no more, each with the highest budget that is spent."""
    paths = {id_: (*(node := thread_node(id_, of_one, 0)).ancestors, node.id) for id_, of_one in tags.items()}
    if not paths:
        return {}
    wanted = {id_ for path in paths.values() for id_ in path}
    rows = await connection.execute(_EXHAUSTED, {"ids": list(wanted)})
    spent = {row[0]: Exhausted(Level(row[1]), *row[2:]) for row in rows}
    return {id_: spent[full[0]] for id_, path in paths.items() if (full := [node for node in path if node in spent])}
