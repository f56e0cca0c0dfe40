"""What bookings cost by other prices, and what that changes: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from uuid import UUID

from xml_pipeline.ledger.model import Pricing
from xml_pipeline.ledger.paths import path_of
from xml_pipeline.ledger.rollups import Rollups
from xml_pipeline.llm.pricing import PriceUsed
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.ledger_rows import Booking


@dataclass(slots=True)
class Totals:
    """Of some bookings: how many there are, how many get another cost or price; USD before and after."""

    rows: int = 0
    changed: int = 0
    unpriced: int = 0
    old_cost: Decimal = Decimal(0)
    new_cost: Decimal = Decimal(0)

    @property
    def difference(self) -> Decimal:
        """USD that the bookings cost more."""
        return self.new_cost - self.old_cost

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.rows + other.rows,
            self.changed + other.changed,
            self.unpriced + other.unpriced,
            self.old_cost + other.old_cost,
            self.new_cost + other.new_cost,
        )

    def add(self, old: Booking, new: Booking) -> None:
        """Count a booking in."""
        self.rows += 1
        self.changed += old != new
        self.unpriced += new.price_id is None
        self.old_cost += old.cost
        self.new_cost += new.cost


@dataclass(slots=True)
class Repricing:
    """The bookings that change, as they will be, and the prices that they are charged by; totals by provider."""

    changed: list[Booking] = field(default_factory=list)
    replaced: list[Booking] = field(default_factory=list)
    prices: dict[int, PriceUsed] = field(default_factory=dict)
    totals: dict[str, Totals] = field(default_factory=dict)


def reprice(bookings: Iterable[Booking], pricing: Pricing) -> Repricing:
    """Give each booking the cost that `pricing` says for the time of its call."""
    repricing = Repricing()
    for old in bookings:
        new = _priced(old, pricing, repricing.prices)
        repricing.totals.setdefault(old.provider, Totals()).add(old, new)
        if new != old:
            repricing.changed.append(new)
            repricing.replaced.append(old)
    return repricing


def _priced(old: Booking, pricing: Pricing, prices: dict[int, PriceUsed]) -> Booking:
    cost = pricing(old.provider, old.model, old.tokens, old.granted_at)
    if cost.price is not None:
        prices[cost.price.id] = cost.price
    price_id = None if cost.price is None else cost.price.id
    return old._replace(cost=cost.amount, uncached_cost=cost.uncached, price_id=price_id)


def moved_budgets(repricing: Repricing, budgets: Mapping[UUID, Budget]) -> dict[UUID, Budget]:
    """The budgets on the paths of what changes, with their new cost."""
    moved: dict[UUID, Budget] = {}
    for old, new in zip(repricing.replaced, repricing.changed, strict=True):
        for node in path_of(budgets, old.thread_id, old.agent_id):
            before = moved.get(node.id, node)
            moved[node.id] = replace(before, cost=before.cost + new.cost - old.cost)
    return moved


def moved_rollups(repricing: Repricing, budgets: Mapping[UUID, Budget]) -> Rollups:
    """What is added to the sums; nothing but costs and the number of unpriced calls."""
    rollups = Rollups()
    for old, new in zip(repricing.replaced, repricing.changed, strict=True):
        tags = budgets[old.thread_id].tags
        rollups.add(old, tags, -1)
        rollups.add(new, tags, 1)
    return rollups
