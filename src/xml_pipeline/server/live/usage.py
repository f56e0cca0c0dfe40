"""`/usage` from the ledger's tables."""

from __future__ import annotations

from uuid import UUID

from xml_pipeline.server import models
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.usage_series import SeriesQuery, UsageSeriesAnswer, series_of
from xml_pipeline.storage import organism_state, usage, usage_series
from xml_pipeline.storage.database import Database

_BUDGETS_SHOWN = 1000


class LiveUsage:
    """The usage store of a gateway."""

    def __init__(self, db: Database, current: Current) -> None:
        self._db = db
        self._current = current

    async def overview(self) -> models.UsageOverview:
        """All sums of the current period."""
        async with self._db.begin() as connection:
            found = await usage.overview(connection)
            return models.UsageOverview(
                totals=models.UsageSums(**_sums(found.totals)),
                by_agent=[models.AgentUsage(agent_id=name, **_sums(sums)) for name, sums in found.by_agent.items()],
                by_model=[models.ModelUsage(model=name, **_sums(sums)) for name, sums in found.by_model.items()],
                active_threads=await usage.count_budgets(connection),
            )

    async def agent(self, agent_id: str) -> models.AgentUsage:
        """The sums of one agent, zeros for an unknown one."""
        sums = await self._totals(agent=agent_id) if storable(agent_id) else usage.Sums()
        return models.AgentUsage(agent_id=agent_id, **_sums(sums))

    async def model(self, model: str) -> models.ModelUsage:
        """The sums of one model, zeros for an unknown one."""
        sums = await self._totals(model=model) if storable(model) else usage.Sums()
        return models.ModelUsage(model=model, **_sums(sums))

    async def timeseries(self, query: SeriesQuery) -> UsageSeriesAnswer:
        """What was used in each hour or day, over all periods."""
        wanted = usage_series.Wanted(
            query.start, query.end, query.step, query.group_by, query.filters, query.most_series
        )
        if not all(map(storable, query.filters.values())):
            return series_of(query, {})
        async with self._db.begin() as connection:
            found = await usage_series.series(connection, wanted)
        return series_of(query, found)

    async def _totals(self, *, agent: str | None = None, model: str | None = None) -> usage.Sums:
        async with self._db.begin() as connection:
            return await usage.totals(connection, agent=agent, model=model)

    async def budgets(self) -> models.ThreadBudgets:
        """The budgets with the highest share used."""
        async with self._db.begin() as connection:
            rows = [_budget(budget) for budget in await usage.list_budgets(connection, limit=_BUDGETS_SHOWN)]
        default = self._current.organism.max_tokens_per_thread
        return models.ThreadBudgets(threads=rows, count=len(rows), default_max_tokens=default)

    async def budget(self, thread_id: str) -> models.ThreadBudget | None:
        """One thread's budget, None where it has none yet."""
        id_ = as_uuid(thread_id)
        if id_ is None:
            return None
        async with self._db.begin() as connection:
            found = await usage.get_budget(connection, id_)
        return _budget(found) if found else None

    async def reset(self) -> None:
        """Begin a new period; budgets stay."""
        async with self._db.begin() as connection:
            await organism_state.reset_usage(connection, actor="api")


def as_uuid(value: str) -> UUID | None:
    """A thread's id, None for what can be none."""
    try:
        return UUID(value)
    except ValueError:
        return None


def storable(text: str) -> bool:
    """Whether PostgreSQL can hold this text at all."""
    return "\x00" not in text


def _sums(sums: usage.Sums) -> dict[str, int | float]:
    return {
        "total_tokens": sums.total_tokens,
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "request_count": sums.requests,
        "total_cost": float(sums.cost),
        "avg_latency_ms": sums.average_latency_ms,
    }


def _budget(budget: usage.Budget) -> models.ThreadBudget:
    return models.budget_of(str(budget.thread_id), budget.max_tokens, budget.prompt_tokens, budget.completion_tokens)
