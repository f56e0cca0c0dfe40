"""What the routes ask of an organism: one port, answered from memory or from the database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from xml_pipeline.server import budget_models, models
from xml_pipeline.server.feed import Hub
from xml_pipeline.server.usage_series import SeriesQuery, UsageSeriesAnswer

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MAX_OFFSET = 2**53


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list."""

    limit: int = DEFAULT_LIMIT
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Which threads; None takes all. `since` is the last activity, with a time zone."""

    status: models.ThreadStatus | None = None
    agent: str | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class LetterQuery:
    """Which dead letters; None takes all. `since` is when they were written, with a time zone."""

    listener: str | None = None
    thread: str | None = None
    code: str | None = None
    redriven: bool | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Inject:
    """One inject as it was asked for; `wait` is how many seconds the caller waits for what comes back.

    `tags` are for a thread that begins; None where the caller says nothing of them. `traceparent`: the caller's span.
    """

    to: str
    payload: Mapping[str, Any]
    thread_id: str | None = None
    key: str | None = None
    wait: float = 0.0
    tags: Mapping[str, str] | None = None
    traceparent: str | None = None


class UsageStore(Protocol):
    """Who knows what was used."""

    async def overview(self) -> models.UsageOverview:
        """All sums."""
        ...

    async def agent(self, agent_id: str) -> models.AgentUsage:
        """The sums of one agent, zeros for an unknown one."""
        ...

    async def model(self, model: str) -> models.ModelUsage:
        """The sums of one model, zeros for an unknown one."""
        ...

    async def timeseries(self, query: SeriesQuery) -> UsageSeriesAnswer:
        """What was used in each hour or day."""
        ...

    async def budgets(self) -> models.ThreadBudgets:
        """Every thread's budget, the highest share used first."""
        ...

    async def budget(self, thread_id: str) -> budget_models.ThreadBudgetDetail | None:
        """One thread's budget, None where it has none yet."""
        ...

    async def shared_budgets(self) -> budget_models.SharedBudgets:
        """What the organism and tags may spend."""
        ...

    async def top_up(self, thread_id: str, tokens: int, key: str | None) -> budget_models.ThreadBudgetDetail | None:
        """Add to a thread's budget, once for each key; None for an unknown thread. Refusals are Problems."""
        ...

    async def reset(self) -> None:
        """All sums are zero afterwards; budgets stay."""
        ...


class LetterStore(Protocol):
    """Who knows what could not be handled. Unknown ids give None or False; refusals are Problems."""

    async def list(self, query: LetterQuery, page: Page) -> tuple[list[models.DeadLetterInfo], int]:
        """One page, the newest first, and how many there are in all."""
        ...

    async def get(self, letter_id: str) -> models.DeadLetterDetail | None:
        """One dead letter with its bytes."""
        ...

    async def redrive(self, letter_id: str, payload: Mapping[str, Any] | None) -> models.RedriveAnswer | None:
        """Handle it once more, with a corrected payload if one is given; the same again gives the same answer."""
        ...

    async def delete(self, letter_id: str) -> bool:
        """Forget it for good."""
        ...


class OrganismView(Protocol):
    """An organism to look at and to steer. Unknown names give None; everything may raise Unavailable."""

    @property
    def hub(self) -> Hub:
        """The live events."""
        ...

    @property
    def usage(self) -> UsageStore:
        """What was used."""
        ...

    @property
    def letters(self) -> LetterStore:
        """What could not be handled."""
        ...

    async def health(self) -> models.HealthInfo:
        """Answers even when everything behind the gateway is gone."""
        ...

    async def alive(self) -> models.HealthReport:
        """Whether the process makes progress, whatever it waits for; asks nobody."""
        ...

    async def ready(self) -> models.HealthReport:
        """Whether it serves requests now; asks nobody."""
        ...

    async def organism(self) -> models.OrganismInfo:
        """The organism as a whole."""
        ...

    async def config(self) -> models.OrganismConfig:
        """The configuration without secrets."""
        ...

    async def agents(self) -> list[models.AgentInfo]:
        """Every listener, whether agent or not."""
        ...

    async def agent(self, name: str) -> models.AgentInfo | None:
        """One listener and what it does."""
        ...

    async def capabilities(self) -> list[models.CapabilityInfo]:
        """Sorted by name."""
        ...

    async def capability(self, name: str) -> models.CapabilityDetail | None:
        """One, with its input contract."""
        ...

    async def threads(self, query: ThreadQuery, page: Page) -> tuple[list[models.ThreadInfo], int]:
        """One page, the newest first, and how many there are in all."""
        ...

    async def thread(self, thread_id: str) -> models.ThreadInfo | None:
        """One thread."""
        ...

    async def messages(
        self, thread_id: str | None, agent: str | None, page: Page
    ) -> tuple[list[models.MessageInfo], int]:
        """One page and how many there are in all: a thread's in their order, everybody's with the newest first."""
        ...

    async def inject(self, inject: Inject) -> models.InjectAnswer:
        """Accept a message; raises Problem where it cannot be accepted."""
        ...

    async def pause(self, name: str) -> bool:
        """Let a listener take no new message; False for an unknown one."""
        ...

    async def resume(self, name: str) -> bool:
        """Let it go on; False for an unknown one."""
        ...

    async def kill(self, thread_id: str) -> bool:
        """End a thread; False for an unknown one."""
        ...

    async def reload(self) -> models.ReloadAnswer:
        """Read the configuration again; what changed, or why nothing did."""
        ...

    async def stop(self) -> None:
        """Ask the whole organism to stop."""
        ...
