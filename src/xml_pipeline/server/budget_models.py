"""What the API tells of budgets beside those of threads alone, and what it takes for them."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.server.models import ApiModel, ProblemInfo, ThreadBudget

MOST_TOP_UP = 2**53


class ThreadBudgetDetail(ThreadBudget):
    """The same: with what top-ups added, what calls under way hold, and how many messages wait for more.

    A process without a ledger knows none of it, and leaves it out.
    """

    top_ups: int = 0
    held_tokens: int = 0
    unlimited: bool = False
    parked_messages: int = 0


class SharedBudget(ApiModel):
    """The token budget of many threads together."""

    max_tokens: int = UNLIMITED
    held_tokens: int = 0
    total_tokens: int = 0
    remaining: int = UNLIMITED
    percent_used: float = 0.0
    unlimited: bool = True
    is_exhausted: bool = False


class TagBudget(SharedBudget):
    """That of all threads with one tag."""

    key: str
    value: str


class SharedBudgets(ApiModel):
    """What threads share: the organism's budget, and those of tags, the highest share used first."""

    organism: SharedBudget
    tags: list[TagBudget] = Field(default_factory=list)


class TopUpRequest(ApiModel):
    """Tokens to be added to a thread's budget."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: int = Field(ge=1, le=MOST_TOP_UP)


class BudgetProblem(ProblemInfo):
    """A budget that is spent: of the organism, of a tag (`name` is `key=value`) or of a thread (its id)."""

    scope: Literal["organism", "tag", "thread"]
    name: str
    max_tokens: int
    total_tokens: int
    remaining: int
    thread_id: str | None
