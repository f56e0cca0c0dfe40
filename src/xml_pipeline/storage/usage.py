"""Usage and budgets as the outside reads them: sums of the current period, budgets by thread."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_SUMS = """
    coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
    coalesce(sum(latency_us), 0), coalesce(sum(cost), 0), coalesce(sum(requests - expired), 0)
"""
_CURRENT = "grain = 'day' and period = coalesce((select usage_period from organism_state where id = 1), 1)"
_BUDGET = "thread_id, max_tokens, held, prompt_tokens, completion_tokens"


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over completions: cost in USD, latency in microseconds. `timed`: those whose latency is known."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_us: int = 0
    cost: Decimal = Decimal(0)
    timed: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def average_latency_ms(self) -> float:
        """Milliseconds for each completion that was timed, 0 without any."""
        return self.latency_us / self.timed / 1000 if self.timed else 0.0


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


async def totals(connection: AsyncConnection, *, agent: str | None = None, model: str | None = None) -> Sums:
    """The sums of the current period: of all, or of one agent, or of one model; zeros where there is nothing."""
    wanted, parameters = [_CURRENT], {}
    if agent is not None:
        wanted.append("agent_id = :agent")
        parameters["agent"] = agent
    if model is not None:
        wanted.append("model = :model")
        parameters["model"] = model
    statement = text(f"select {_SUMS} from usage_rollups where {' and '.join(wanted)}")  # noqa: S608
    return _sums(tuple((await connection.execute(statement, parameters)).one()))


async def by_agent(connection: AsyncConnection) -> dict[str, Sums]:
    """The sums of each agent, those with the most tokens first."""
    return await _grouped(connection, "agent_id")


async def by_model(connection: AsyncConnection) -> dict[str, Sums]:
    """The sums of each model, those with the most tokens first."""
    return await _grouped(connection, "model")


async def list_budgets(connection: AsyncConnection, *, limit: int | None = None) -> list[Budget]:
    """The budgets of threads, the most used first."""
    statement = text(f"""
        select {_BUDGET} from budgets where level = 2
         order by (prompt_tokens + completion_tokens)::float8 / nullif(max_tokens, 0) desc nulls first, thread_id
         limit :limit
    """)  # noqa: S608
    return [Budget(*row) for row in await connection.execute(statement, {"limit": limit})]


async def get_budget(connection: AsyncConnection, thread_id: UUID) -> ThreadBudget | None:
    """The budget of a thread with what waits for it, None while it has none."""
    statement = text(f"""
        select {_BUDGET}, topped_up,
               (select count(*) from messages m where m.thread_id = b.id and m.parked_for is not null)
        from budgets b where id = :thread
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


async def _grouped(connection: AsyncConnection, column: str) -> dict[str, Sums]:
    statement = text(f"""
        select {column}, {_SUMS} from usage_rollups where {_CURRENT}
         group by {column} order by sum(prompt_tokens + completion_tokens) desc, {column}
    """)  # noqa: S608
    return {row[0]: _sums(tuple(row[1:])) for row in await connection.execute(statement)}


def _sums(row: tuple[int, int, int, int, Decimal, int]) -> Sums:
    requests, prompt, completion, latency, cost, timed = row
    return Sums(int(requests), int(prompt), int(completion), int(latency), Decimal(cost), int(timed))
