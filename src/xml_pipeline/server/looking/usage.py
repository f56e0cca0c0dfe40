"""`/usage` of a process without a ledger: its tracker and its budget registry, looked up at each request."""

from __future__ import annotations

from xml_pipeline.llm import get_usage_tracker
from xml_pipeline.llm.usage_tracker import UsageSums
from xml_pipeline.message_bus import get_budget_registry
from xml_pipeline.message_bus.budget_registry import DEFAULT_MAX_TOKENS, ThreadBudget
from xml_pipeline.server import models
from xml_pipeline.server.usage_series import SeriesQuery, UsageSeriesAnswer, series_of


class ProcessUsage:
    """The usage store that is answered from `get_usage_tracker()` and `get_budget_registry()`."""

    async def overview(self) -> models.UsageOverview:
        """All sums."""
        tracker = get_usage_tracker()
        return models.UsageOverview(
            totals=models.UsageSums(**_sums(tracker.totals())),
            by_agent=[models.AgentUsage(agent_id=name, **_sums(sums)) for name, sums in tracker.by_agent().items()],
            by_model=[models.ModelUsage(model=name, **_sums(sums)) for name, sums in tracker.by_model().items()],
            active_threads=len(get_budget_registry().budgets()),
        )

    async def agent(self, agent_id: str) -> models.AgentUsage:
        """The sums of one agent, zeros for an unknown one."""
        return models.AgentUsage(agent_id=agent_id, **_sums(get_usage_tracker().agent(agent_id)))

    async def model(self, model: str) -> models.ModelUsage:
        """The sums of one model, zeros for an unknown one."""
        return models.ModelUsage(model=model, **_sums(get_usage_tracker().model(model)))

    async def timeseries(self, query: SeriesQuery) -> UsageSeriesAnswer:
        """No series: the tracker keeps no times."""
        return series_of(query, {})

    async def budgets(self) -> models.ThreadBudgets:
        """Every thread's budget, the highest share used first."""
        rows = [_budget(budget) for budget in get_budget_registry().budgets()]
        rows.sort(key=lambda row: (-row.total_tokens / max(1, row.max_tokens), row.thread_id))
        return models.ThreadBudgets(threads=rows, count=len(rows), default_max_tokens=DEFAULT_MAX_TOKENS)

    async def budget(self, thread_id: str) -> models.ThreadBudget | None:
        """One thread's budget, None where it has none yet."""
        budget = get_budget_registry().budget(thread_id)
        return _budget(budget) if budget else None

    async def reset(self) -> None:
        """All sums are zero afterwards; budgets stay."""
        get_usage_tracker().reset()


def _sums(sums: UsageSums) -> dict[str, int | float]:
    return {
        "total_tokens": sums.total_tokens,
        "prompt_tokens": sums.prompt_tokens,
        "completion_tokens": sums.completion_tokens,
        "request_count": sums.request_count,
        "total_cost": float(sums.total_cost),
        "avg_latency_ms": float(sums.avg_latency_ms),
    }


def _budget(budget: ThreadBudget) -> models.ThreadBudget:
    return models.budget_of(budget.thread_id, budget.max_tokens, budget.prompt_tokens, budget.completion_tokens)
