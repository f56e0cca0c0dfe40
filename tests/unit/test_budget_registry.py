from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from xml_pipeline.message_bus import BudgetRegistry, get_budget_registry, reset_budget_registry


@pytest.fixture
def registry() -> Iterator[BudgetRegistry]:
    reset_budget_registry()
    yield get_budget_registry()
    reset_budget_registry()


def test_a_thread_starts_with_the_default_budget(registry: BudgetRegistry) -> None:
    budget = registry.consume("t1", prompt_tokens=3000, completion_tokens=1500)
    assert budget.max_tokens == 100_000
    assert budget.remaining == 95_500
    assert budget.percent_used == 4.5
    assert not budget.is_exhausted


def test_looking_creates_no_budget(registry: BudgetRegistry) -> None:
    assert not registry.has_budget("t1")
    assert registry.budget("t1") is None
    assert registry.budgets() == ()


def test_the_registry_is_one_for_the_process_until_it_is_reset(registry: BudgetRegistry) -> None:
    registry.consume("t1", 1, 1)
    assert get_budget_registry().has_budget("t1")
    reset_budget_registry()
    assert not get_budget_registry().has_budget("t1")


def test_a_budget_that_is_used_up_is_exhausted_and_never_below_zero(registry: BudgetRegistry) -> None:
    registry.set_max_tokens("t1", 10)
    budget = registry.consume("t1", 8, 7)
    assert budget.is_exhausted
    assert budget.remaining == 0
    assert budget.percent_used == 150.0


def test_negative_tokens_are_refused(registry: BudgetRegistry) -> None:
    with pytest.raises(ValueError, match="negative"):
        registry.consume("t1", -1, 0)
    with pytest.raises(ValueError, match="negative"):
        registry.set_max_tokens("t1", -1)
    assert not registry.has_budget("t1")


def test_no_token_is_lost_between_threads(registry: BudgetRegistry) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: registry.consume("t1", 1, 2), range(2000)))
    budget = registry.budget("t1")
    assert budget is not None
    assert (budget.prompt_tokens, budget.completion_tokens) == (2000, 4000)
