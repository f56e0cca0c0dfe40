"""The budgets of an organism, as `organism.yaml` sets them. Amounts are tokens; unlimited is an amount, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# More than anybody spends, and exact in JSON and in every sum that is made of it.
UNLIMITED = 2**53 - 1

AtLimit = Literal["deny", "park", "kill"]


@dataclass(frozen=True, slots=True)
class TagBudgets:
    """What each value of one tag may spend; `default` is for those that are not named."""

    default: int = UNLIMITED
    values: Mapping[str, int] = field(default_factory=dict)

    def of(self, value: str) -> int:
        """The amount for one value."""
        return self.values.get(value, self.default)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told of thresholds. `secret_env` names the environment variable with the secret that signs."""

    url: str
    secret_env: str


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits above and below that of the thread.

    `agents`: what an agent may spend within each thread; an agent that is not named has no budget of its own.
    `at_limit`: what becomes of a call that no budget will ever cover. `thresholds`: percents of use to be told of.
    """

    organism: int = UNLIMITED
    tags: Mapping[str, TagBudgets] = field(default_factory=dict)
    agents: Mapping[str, int] = field(default_factory=dict)
    at_limit: AtLimit = "deny"
    thresholds: tuple[int, ...] = (75, 90, 95)
    webhook: Webhook | None = None

    def of_tag(self, key: str, value: str) -> int:
        """What the threads with this tag may spend together."""
        tag = self.tags.get(key)
        return UNLIMITED if tag is None else tag.of(value)
