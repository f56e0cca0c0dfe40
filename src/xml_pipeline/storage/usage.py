"""Usage and budgets as the outside reads them: sums of the current period, budgets by thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# What is expired has no latency.
SUMS = """
    coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
    coalesce(sum(latency_us), 0), coalesce(sum(requests - expired), 0), coalesce(sum(cost), 0)
"""
# The days of a period hold all that its hours do, in fewer rows.
_CURRENT = "grain = 'day' and period = coalesce((select usage_period from organism_state where id = 1), 1)"
_BUDGET = "thread_id, max_tokens, held, prompt_tokens, completion_tokens"
# By the rank first, which has an index. Threads without a limit have no rank, and come last.
_MOST_USED = text(
    f"""
    select {_BUDGET} from budgets where level = 2 and use_rank is not null
     order by use_rank desc, cast(prompt_tokens + completion_tokens as float8) / greatest(max_tokens, 1) desc, id
     limit :limit
    """  # noqa: S608
)
# Several processes on one index read far beyond the first rows, which are all that is wanted.
_ONE_PROCESS = text("set local max_parallel_workers_per_gather = 0")
_UNLIMITED = text(
    f"select {_BUDGET} from budgets where level = 2 and use_rank is null limit :limit"  # noqa: S608
)


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over completions: cost in USD, latency in microseconds over the `timed` ones."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_us: int = 0
    timed: int = 0
    cost: Decimal = Decimal(0)

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def average_latency_ms(self) -> float:
        """Milliseconds for each completion whose latency is known, 0 without any."""
        return self.latency_us / self.timed / 1000 if self.timed else 0.0


@dataclass(frozen=True, slots=True)
class Overview:
    """All sums of the current period; agents and models with the most tokens first."""

    totals: Sums
    by_agent: dict[str, Sums]
    by_model: dict[str, Sums]


@dataclass(frozen=True, slots=True)
class Budget:
    """The tokens of one thread."""

    thread_id: UUID
    max_tokens: int
    held: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ThreadBudget(Budget):
    """The same with what top-ups added to it, and how many messages wait for more."""

    topped_up: int
    parked: int


@dataclass(frozen=True, slots=True)
class SharedBudget:
    """The tokens of the organism (no tag), or of all threads with one tag."""

    tag_key: str | None
    tag_value: str | None
    max_tokens: int
    held: int
    spent: int


_OVERVIEW = text(
    f"""
    select grouping(agent_id, model), coalesce(agent_id, model), {SUMS} from usage_rollups where {_CURRENT}
     group by grouping sets ((), (agent_id), (model))
     order by sum(prompt_tokens + completion_tokens) desc, 2
    """  # noqa: S608
)
# Bits of `grouping`: a column that was not grouped by counts.
_BY_AGENT, _BY_MODEL, _IN_ALL = 0b01, 0b10, 0b11


async def overview(connection: AsyncConnection) -> Overview:
    """The sums of the current period: of all, of each agent, of each model."""
    found: dict[int, dict[str, Sums]] = {_BY_AGENT: {}, _BY_MODEL: {}, _IN_ALL: {}}
    for grouping, key, *sums in await connection.execute(_OVERVIEW):
        found[grouping][key or ""] = sums_of(sums)
    return Overview(found[_IN_ALL][""], found[_BY_AGENT], found[_BY_MODEL])


async def totals(connection: AsyncConnection, *, agent: str | None = None, model: str | None = None) -> Sums:
    """The sums of the current period: of all, or of one agent, or of one model; zeros where there is nothing."""
    wanted, parameters = [_CURRENT], {}
    if agent is not None:
        wanted.append("agent_id = :agent")
        parameters["agent"] = agent
    if model is not None:
        wanted.append("model = :model")
        parameters["model"] = model
    statement = text(f"select {SUMS} from usage_rollups where {' and '.join(wanted)}")  # noqa: S608
    return sums_of((await connection.execute(statement, parameters)).one())


async def list_budgets(connection: AsyncConnection, *, limit: int | None = None) -> list[Budget]:
    """The budgets of threads, the most used first."""
    await connection.execute(_ONE_PROCESS)
    most = [Budget(*row) for row in await connection.execute(_MOST_USED, {"limit": limit})]
    if limit is None or len(most) < limit:
        left = None if limit is None else limit - len(most)
        most += [Budget(*row) for row in await connection.execute(_UNLIMITED, {"limit": left})]
    return most


async def get_budget(connection: AsyncConnection, thread_id: UUID) -> ThreadBudget | None:
    """The budget of a thread with what waits for it, None while it has none."""
    statement = text(f"""
        select {_BUDGET}, topped_up,
               (select count(*) from messages m where m.thread_id = b.id and m.parked_for is not null)
        from budgets b where id = :thread and level = 2
    """)  # noqa: S608
    row = (await connection.execute(statement, {"thread": thread_id})).one_or_none()
    return ThreadBudget(*row) if row else None


async def shared_budgets(connection: AsyncConnection, *, limit: int) -> list[SharedBudget]:
    """The organism's budget, if it has begun, and then those of tags, the most used first."""
    statement = text("""
        select tag_key, tag_value, max_tokens, held, prompt_tokens + completion_tokens as spent from budgets
        where level < 2 order by level, (prompt_tokens + completion_tokens)::float8 / nullif(max_tokens, 0) desc
            nulls first, tag_key, tag_value
        limit :limit
    """)
    return [SharedBudget(*row) for row in await connection.execute(statement, {"limit": limit})]


async def count_budgets(connection: AsyncConnection) -> int:
    """How many threads have a budget."""
    count: int = (await connection.execute(text("select count(*) from budgets where level = 2"))).scalar_one()
    return count


def sums_of(row: Sequence[Any]) -> Sums:
    """What `SUMS` selects."""
    requests, prompt, completion, latency, timed, cost = row
    return Sums(int(requests), int(prompt), int(completion), int(latency), int(timed), Decimal(cost))
