"""Which thresholds a budget has reached: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from xml_pipeline.ledger.model import Crossing
from xml_pipeline.storage.budget_rows import Budget


def reached(budget: Budget, thresholds: Sequence[int]) -> list[int]:
    """The thresholds that are reached and were not told of, the lowest first."""
    return [
        percent
        for percent in thresholds
        if percent > budget.fired and budget.spent and budget.spent * 100 >= percent * budget.max_tokens
    ]


def told(budgets: Iterable[Budget], thresholds: Sequence[int]) -> tuple[dict[UUID, Budget], list[Crossing]]:
    """The budgets that reached thresholds, with those noted, and what is to be told of them."""
    changed: dict[UUID, Budget] = {}
    crossings: list[Crossing] = []
    for budget in budgets:
        new = reached(budget, thresholds)
        if new:
            changed[budget.id] = noted = replace(budget, fired=new[-1])
            crossings += [Crossing(noted, percent) for percent in new]
    return changed, crossings
