"""`/usage` from the ledger's tables."""

from __future__ import annotations

import hashlib
from uuid import UUID, uuid4, uuid5

from xml_pipeline.message_bus.messages import ControlHint
from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.server import budget_models, models
from xml_pipeline.server.access.visitor import current_actor
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.refusals import key_used_differently, thread_killed
from xml_pipeline.server.usage_series import SeriesQuery, UsageSeriesAnswer, series_of
from xml_pipeline.storage import organism_state, top_ups, usage, usage_series
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.top_ups import NewBudgets, TopUp, TopUpAnswer

_BUDGETS_SHOWN = 1000
_NAMESPACE = UUID("0b1b7f0c-8f4c-5d7e-9a55-3f1d4f6c2e90")


class LiveUsage:
    """The usage store of a gateway."""

    def __init__(self, db: Database, current: Current, outbox: Outbox) -> None:
        self._db = db
        self._current = current
        self._outbox = outbox

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

    async def budget(self, thread_id: str) -> budget_models.ThreadBudgetDetail | None:
        """One thread's budget, None where it has none yet."""
        id_ = as_uuid(thread_id)
        return None if id_ is None else await self._detail(id_)

    async def shared_budgets(self) -> budget_models.SharedBudgets:
        """The organism's budget and those of tags, the highest share used first."""
        async with self._db.begin() as connection:
            rows = await usage.shared_budgets(connection, limit=_BUDGETS_SHOWN)
        limit = self._current.organism.budgets.organism
        whole = next((_shared(row) for row in rows if row.tag_key is None), _shared_of(limit, 0, 0))
        tags = [
            budget_models.TagBudget(key=row.tag_key, value=row.tag_value, **_shared(row).model_dump())
            for row in rows
            if row.tag_key is not None and row.tag_value is not None
        ]
        return budget_models.SharedBudgets(organism=whole, tags=tags)

    async def top_up(self, thread_id: str, tokens: int, key: str | None) -> budget_models.ThreadBudgetDetail | None:
        """A row, then a hint to routers: what is parked may go on."""
        id_ = as_uuid(thread_id)
        if id_ is None:
            return None
        organism = self._current.organism
        wanted = _top_up(organism.name, id_, tokens, key)
        async with self._db.begin() as connection:
            new = NewBudgets(organism.max_tokens_per_thread, organism.budgets)
            answer = await top_ups.top_up(connection, wanted, new)
        match answer:
            case TopUpAnswer.UNKNOWN:
                return None
            case TopUpAnswer.KILLED:
                raise thread_killed(thread_id)
            case TopUpAnswer.CONFLICT:
                raise key_used_differently()
            case TopUpAnswer.ADDED:
                self._outbox.hint(ControlHint(kind="top-up", thread_id=id_))
            case TopUpAnswer.REPEATED:
                pass
        return await self._detail(id_)

    async def _detail(self, thread_id: UUID) -> budget_models.ThreadBudgetDetail | None:
        async with self._db.begin() as connection:
            found = await usage.get_budget(connection, thread_id)
        if found is None:
            return None
        return budget_models.ThreadBudgetDetail(
            **_budget(found).model_dump(),
            top_ups=found.topped_up,
            held_tokens=found.held,
            unlimited=found.max_tokens >= UNLIMITED,
            parked_messages=found.parked,
        )

    async def reset(self) -> None:
        """Begin a new period; budgets stay."""
        async with self._db.begin() as connection:
            await organism_state.reset_usage(connection, actor=current_actor())


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


def _shared(budget: usage.SharedBudget) -> budget_models.SharedBudget:
    return _shared_of(budget.max_tokens, budget.held, budget.spent)


def _shared_of(max_tokens: int, held: int, spent: int) -> budget_models.SharedBudget:
    used = models.use_of(max_tokens, spent)
    return budget_models.SharedBudget(held_tokens=held, unlimited=max_tokens >= UNLIMITED, **used)


def _top_up(organism: str, thread_id: UUID, tokens: int, key: str | None) -> TopUp:
    id_ = uuid5(_NAMESPACE, f"{organism}\n{key}") if key else uuid4()
    sent = hashlib.sha256(f"{thread_id} {tokens}".encode()).digest()
    return TopUp(id_, thread_id, tokens, sent, current_actor())
