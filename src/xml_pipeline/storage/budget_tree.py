"""The statements on the tree of budgets.

Nodes are locked from the deepest up, those of one level by their ids; new ones are inserted in the same order. Agents'
nodes are not locked: whoever changes one has the lock of its thread, and so they may appear while others wait for that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.organism.budgets import UNLIMITED, Budgets
from xml_pipeline.storage.budget_rows import (
    Budget,
    Level,
    agent_node,
    agent_node_id,
    organism_node,
    tag_node,
    thread_node,
)
from xml_pipeline.storage.database import Database

COLUMNS = """id, level, max_tokens, ancestors, thread_id, agent_id, tag_key, tag_value, held, prompt_tokens,
    completion_tokens, requests, cost, fired"""

_NEW_THREADS = text(
    """
    select id, tags from threads
    where id = any(cast(:threads as uuid[])) and not exists (select from budgets b where b.id = threads.id)
    """
)

# Arrays of arrays have to be of one length: the ancestors travel as text.
_ADD = text(
    """
    insert into budgets (id, level, base_tokens, ancestors, thread_id, agent_id, tag_key, tag_value, held,
        prompt_tokens, completion_tokens, requests, cost)
    select id, level, base_tokens, cast(string_to_array(ancestors, ' ') as uuid[]), thread_id, agent_id, tag_key,
        tag_value, held, prompt_tokens, completion_tokens, requests, cost
    from unnest(
        cast(:id as uuid[]), cast(:level as smallint[]), cast(:base_tokens as bigint[]), cast(:ancestors as text[]),
        cast(:thread_id as uuid[]), cast(:agent_id as text[]), cast(:tag_key as text[]), cast(:tag_value as text[]),
        cast(:held as bigint[]), cast(:prompt_tokens as bigint[]), cast(:completion_tokens as bigint[]),
        cast(:requests as bigint[]), cast(:cost as numeric[])
    ) as new (id, level, base_tokens, ancestors, thread_id, agent_id, tag_key, tag_value, held, prompt_tokens,
        completion_tokens, requests, cost)
    order by level desc, id
    on conflict do nothing
    """
)

_LOCK = text(
    f"""
    select {COLUMNS} from budgets
    where id = any(array(select unnest(ancestors || id) from budgets where id = any(cast(:threads as uuid[]))))
    order by level desc, id for update
    """  # noqa: S608
)

_AGENTS = text(
    f"select {COLUMNS} from budgets where level = 3 and thread_id = any(cast(:threads as uuid[]))"  # noqa: S608
)

# What an agent has held and spent in a thread, whose node is locked.
_OF_AGENTS = text(
    """
    with asked as (
        select * from unnest(cast(:threads as uuid[]), cast(:agents as text[])) as t (thread_id, agent_id)
    ), spent as (
        select thread_id, agent_id, prompt_tokens, completion_tokens, 1 as requests, cost
        from usage_events join asked using (thread_id, agent_id)
        union all
        select thread_id, agent_id, prompt_tokens, completion_tokens, requests, cost
        from carried_forward join asked using (thread_id, agent_id)
    )
    select a.thread_id, a.agent_id,
        (select coalesce(sum(cast(prompt_bound as bigint) + max_completion), 0) from holds h
         where h.thread_id = a.thread_id and h.agent_id = a.agent_id and h.state = 'held'),
        coalesce(sum(s.prompt_tokens), 0), coalesce(sum(s.completion_tokens), 0), coalesce(sum(s.requests), 0),
        coalesce(sum(s.cost), 0)
    from asked a left join spent s using (thread_id, agent_id) group by 1, 2
    """
)

_SET_LIMITS = text(
    """
    update budgets set base_tokens = new.base_tokens
    from unnest(cast(:ids as uuid[]), cast(:limits as bigint[])) as new (id, base_tokens)
    where budgets.id = new.id and budgets.base_tokens <> new.base_tokens
    """
)

_SHARED = text(f"select {COLUMNS} from budgets where level < 2 order by level desc, id for update")  # noqa: S608

_AGENT_LIMITS = text(
    """
    with new as (select * from unnest(cast(:agents as text[]), cast(:limits as bigint[])) as t (agent_id, base_tokens)),
    stale as (
        select b.id, coalesce(new.base_tokens, cast(:unlimited as bigint)) as base_tokens
        from budgets b left join new using (agent_id)
        where b.level = 3 and b.base_tokens <> coalesce(new.base_tokens, cast(:unlimited as bigint))
        order by b.id for update of b
    )
    update budgets set base_tokens = stale.base_tokens from stale where budgets.id = stale.id
    """
)


async def add_thread_budgets(
    connection: AsyncConnection, threads: Collection[UUID], max_tokens: int, budgets: Budgets
) -> None:
    """Give every thread that has none a budget of `max_tokens`, and their tags and the organism theirs."""
    if not threads:
        return
    rows = await connection.execute(_NEW_THREADS, {"threads": list(threads)})
    tags: dict[UUID, Mapping[str, str]] = {row[0]: row[1] for row in rows}
    if not tags:
        return
    shared = {(key, value) for of_one in tags.values() for key, value in of_one.items()}
    await _add(
        connection,
        [
            *(thread_node(thread, of_one, max_tokens) for thread, of_one in tags.items()),
            *(tag_node(key, value, budgets.of_tag(key, value)) for key, value in shared),
            organism_node(budgets.organism),
        ],
    )


async def lock_budgets(connection: AsyncConnection, threads: Collection[UUID]) -> dict[UUID, Budget]:
    """Lock the nodes of threads and all above, and read those and their agents'; by id."""
    if not threads:
        return {}
    locked = (await connection.execute(_LOCK, {"threads": list(threads)})).all()
    agents = (await connection.execute(_AGENTS, {"threads": list(threads)})).all()
    return {row[0]: budget_of(row) for row in (*locked, *agents)}


async def add_agent_budgets(
    connection: AsyncConnection,
    locked: Mapping[UUID, Budget],
    wanted: Iterable[tuple[UUID, str]],
    limits: Mapping[str, int],
) -> dict[UUID, Budget]:
    """Nodes for agents that have a limit and none yet, with what they held and spent; their threads are locked."""
    missing = sorted(
        {
            (thread, agent)
            for thread, agent in wanted
            if agent in limits and thread in locked and agent_node_id(thread, agent) not in locked
        }
    )
    if not missing:
        return {}
    parameters = {"threads": [thread for thread, _ in missing], "agents": [agent for _, agent in missing]}
    nodes = [
        _with_sums(agent_node(locked[row[0]], row[1], limits[row[1]]), row)
        for row in await connection.execute(_OF_AGENTS, parameters)
    ]
    await _add(connection, nodes)
    return {node.id: node for node in nodes}


async def set_limits(db: Database, budgets: Budgets) -> None:
    """Give nodes that exist the limits of a new configuration. Threads keep what they began with.

    Raises DatabaseUnavailable.
    """
    limits_of_agents = {"agents": list(budgets.agents), "limits": list(budgets.agents.values())}
    # Two transactions: who has the lock of what is shared may wait for an agent's node.
    async with db.begin() as connection:
        await connection.execute(_AGENT_LIMITS, limits_of_agents | {"unlimited": UNLIMITED})
    async with db.begin() as connection:
        await _set_shared_limits(connection, budgets)


async def _set_shared_limits(connection: AsyncConnection, budgets: Budgets) -> None:
    shared = [budget_of(row) for row in await connection.execute(_SHARED)]
    limits = {node.id: _limit_of(node, budgets) for node in shared}
    await connection.execute(_SET_LIMITS, {"ids": list(limits), "limits": list(limits.values())})
    await _add(connection, [organism_node(budgets.organism)])


def budget_of(row: Sequence[Any]) -> Budget:
    """A node from its columns."""
    id_, level, max_tokens, ancestors, *others = row
    return Budget(id_, Level(level), max_tokens, tuple(ancestors), *others)


def _limit_of(node: Budget, budgets: Budgets) -> int:
    if node.tag_key is None or node.tag_value is None:
        return budgets.organism
    return budgets.of_tag(node.tag_key, node.tag_value)


def _with_sums(node: Budget, row: Sequence[Any]) -> Budget:
    _, _, held, prompt, completion, requests, cost = row
    return Budget(
        node.id,
        node.level,
        node.max_tokens,
        node.ancestors,
        node.thread_id,
        node.agent_id,
        held=int(held),
        prompt_tokens=int(prompt),
        completion_tokens=int(completion),
        requests=int(requests),
        cost=cost,
    )


async def _add(connection: AsyncConnection, nodes: Sequence[Budget]) -> None:
    names = ("id", "level", "thread_id", "agent_id", "tag_key", "tag_value", "held")
    sums = ("prompt_tokens", "completion_tokens", "requests", "cost")
    columns: dict[str, list[Any]] = {name: [getattr(node, name) for node in nodes] for name in (*names, *sums)}
    columns["base_tokens"] = [node.max_tokens for node in nodes]
    columns["ancestors"] = [" ".join(map(str, node.ancestors)) for node in nodes]
    await connection.execute(_ADD, columns)
