"""Token budgets that live in this process: what a pump without a database shows of its threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

DEFAULT_MAX_TOKENS = 100_000
# Past so many the one that was used longest ago is forgotten: this is for onlookers, the ledger keeps every budget.
MOST_BUDGETS = 100_000


@dataclass(frozen=True, slots=True)
class ThreadBudget:
    """What a thread may use and has used, in tokens, at one moment."""

    thread_id: str
    max_tokens: int = DEFAULT_MAX_TOKENS
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """All tokens used."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def remaining(self) -> int:
        """Tokens that may still be used; never negative."""
        return max(0, self.max_tokens - self.total_tokens)

    @property
    def percent_used(self) -> float:
        """Share of the budget used, in percent with one decimal."""
        return round(100.0 * self.total_tokens / self.max_tokens, 1) if self.max_tokens else 100.0

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing remains."""
        return self.remaining == 0


class BudgetRegistry:
    """The budgets of threads; safe to use from any thread of the process.

    A budget is made by the first `consume` or `set_max_tokens` of its thread; looking makes none.
    """

    def __init__(self, default_max_tokens: int = DEFAULT_MAX_TOKENS) -> None:
        self._default = default_max_tokens
        self._lock = threading.Lock()
        self._budgets: OrderedDict[str, ThreadBudget] = OrderedDict()

    def consume(self, thread_id: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> ThreadBudget:
        """Book used tokens on a thread and return its budget as it is then; ValueError for negative counts."""
        if prompt_tokens < 0 or completion_tokens < 0:
            raise ValueError("tokens used cannot be negative")
        with self._lock:
            before = self._get_or_default(thread_id)
            after = ThreadBudget(
                thread_id=before.thread_id,
                max_tokens=before.max_tokens,
                prompt_tokens=before.prompt_tokens + prompt_tokens,
                completion_tokens=before.completion_tokens + completion_tokens,
            )
            self._keep(after)
            return after

    def set_max_tokens(self, thread_id: str, max_tokens: int) -> ThreadBudget:
        """Give a thread another limit, keeping what it used; ValueError for a negative one."""
        if max_tokens < 0:
            raise ValueError("a budget cannot be negative")
        with self._lock:
            before = self._get_or_default(thread_id)
            after = ThreadBudget(before.thread_id, max_tokens, before.prompt_tokens, before.completion_tokens)
            self._keep(after)
            return after

    def top_up(self, thread_id: str, tokens: int, *, most: int) -> ThreadBudget:
        """Raise a thread's limit by `tokens`, to `most` at most; its budget as it is then."""
        with self._lock:
            before = self._get_or_default(thread_id)
            limit = max(before.max_tokens, min(most, before.max_tokens + tokens))
            after = ThreadBudget(before.thread_id, limit, before.prompt_tokens, before.completion_tokens)
            self._keep(after)
            return after

    def has_budget(self, thread_id: str) -> bool:
        """Whether the thread has a budget; creates none."""
        return self.budget(thread_id) is not None

    def budget(self, thread_id: str) -> ThreadBudget | None:
        """The budget of a thread as it is now, None where there is none; creates none."""
        with self._lock:
            return self._budgets.get(str(thread_id))

    def budgets(self) -> tuple[ThreadBudget, ...]:
        """All budgets as they are now, the one that was changed last at the end."""
        with self._lock:
            return tuple(self._budgets.values())

    def _keep(self, budget: ThreadBudget) -> None:
        self._budgets.pop(budget.thread_id, None)
        self._budgets[budget.thread_id] = budget
        if len(self._budgets) > MOST_BUDGETS:
            self._budgets.popitem(last=False)

    def _get_or_default(self, thread_id: str) -> ThreadBudget:
        key = str(thread_id)
        return self._budgets.get(key) or ThreadBudget(key, self._default)


class _Holder:
    """The one registry of this process, made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry: BudgetRegistry | None = None

    def get(self) -> BudgetRegistry:
        with self._lock:
            if self._registry is None:
                self._registry = BudgetRegistry()
            return self._registry

    def reset(self) -> None:
        with self._lock:
            self._registry = None


_holder = _Holder()


def get_budget_registry() -> BudgetRegistry:
    """The registry that this whole process shares."""
    return _holder.get()


def reset_budget_registry() -> None:
    """Forget every budget of this process: the next `get_budget_registry` gives a fresh registry."""
    _holder.reset()
