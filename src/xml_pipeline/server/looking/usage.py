"""`/usage` of a process without a ledger: its tracker and its budget registry, looked up at each request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from xml_pipeline.llm import get_usage_tracker
from xml_pipeline.llm.usage_tracker import UsageSums
from xml_pipeline.message_bus import get_budget_registry
from xml_pipeline.message_bus.budget_registry import DEFAULT_MAX_TOKENS, ThreadBudget
from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.server import budget_models, models
from xml_pipeline.server.refusals import key_used_differently, thread_killed
from xml_pipeline.server.usage_series import SeriesQuery, UsageSeriesAnswer, series_of

# Past so many the oldest are forgotten.
_KEYS_KEPT = 10_000


class ProcessUsage:
    """The usage store that is answered from `get_usage_tracker()` and `get_budget_registry()`.

    `thread`: what is known of a thread, None where it was never seen.
    """

    def __init__(self, thread: Callable[[str], models.ThreadInfo | None]) -> None:
        self._thread = thread
        self._top_ups: OrderedDict[str, tuple[str, int]] = OrderedDict()

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

    async def budget(self, thread_id: str) -> budget_models.ThreadBudgetDetail | None:
        """One thread's budget, None where it has none yet."""
        budget = get_budget_registry().budget(thread_id)
        return _detail(budget) if budget else None

    async def shared_budgets(self) -> budget_models.SharedBudgets:
        """Nothing is shared: the organism's budget is unlimited."""
        used = models.use_of(UNLIMITED, get_usage_tracker().totals().total_tokens)
        return budget_models.SharedBudgets(organism=budget_models.SharedBudget(**used))

    async def top_up(self, thread_id: str, tokens: int, key: str | None) -> budget_models.ThreadBudgetDetail | None:
        """Raise a thread's limit, once for each key."""
        thread, registry = self._thread(thread_id), get_budget_registry()
        known = self._top_ups.get(key) if key else None
        if known is not None and known != (thread_id, tokens):
            raise key_used_differently()
        if known is None:
            if thread is None and not registry.has_budget(thread_id):
                return None
            if thread is not None and thread.status is models.ThreadStatus.KILLED:
                raise thread_killed(thread_id)
            registry.top_up(thread_id, tokens, most=UNLIMITED)
            self._remember(key, (thread_id, tokens))
        return await self.budget(thread_id)

    def _remember(self, key: str | None, top_up: tuple[str, int]) -> None:
        if key:
            self._top_ups[key] = top_up
            if len(self._top_ups) > _KEYS_KEPT:
                self._top_ups.popitem(last=False)

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


def _detail(budget: ThreadBudget) -> budget_models.ThreadBudgetDetail:
    return budget_models.ThreadBudgetDetail(**_budget(budget).model_dump())
