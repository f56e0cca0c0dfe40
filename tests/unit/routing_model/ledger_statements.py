"""The ledger's statements of `storage` on the model's database: same names, same order.

Each is one statement; what books of one thread belong together is for the callers to lock.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tests.unit.routing_model.database import Transaction, View
from tests.unit.routing_model.rows import Shortcut, Shortcuts
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.storage.budget_rows import Budget, organism_node, thread_node
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState, Measured, Settled
from xml_pipeline.storage.ledger_settle import Settlement
from xml_pipeline.storage.organism_state import OrganismState
from xml_pipeline.storage.rollup_rows import LatencyKey, LatencySums, RollupKey, Sums, TagKey, TagSums, start_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUMS = ("held", "prompt_tokens", "completion_tokens", "requests", "cost", "fired")


@dataclass(slots=True, eq=False)
class LedgerTransaction(Transaction):
    """With what was tried first. `locking`: what the statement saw that locked the budgets."""

    shortcuts: Shortcuts = frozenset()
    locking: View | None = None

    async def __aenter__(self) -> LedgerTransaction:
        return self

    async def fresh(self, name: str) -> View:
        """A statement of its own, unless it is the wrong way that is tried."""
        view = await self.statement(name)
        return view if self.locking is None else self.locking

    async def lock_budgets(self, view: View, threads: Iterable[UUID]) -> dict[UUID, Budget]:
        """The deepest first, those of one level by their ids."""
        if Shortcut.HOLDS_READ_WITH_THE_LOCK in self.shortcuts:
            self.locking = view
        if Shortcut.BUDGETS_WITHOUT_LOCK in self.shortcuts:
            return _paths(view, threads)
        known = sorted(_paths(view, threads).values(), key=lambda node: (-node.level, node.id))
        return {node.id: await self.lock(("budget", node.id)) for node in known}


def _paths(view: View, threads: Iterable[UUID]) -> dict[UUID, Budget]:
    nodes: dict[UUID, Budget] = view.pick("budget", threads)
    return nodes | view.pick("budget", {id_ for node in nodes.values() for id_ in node.ancestors})


async def plan_by_keys(connection: LedgerTransaction) -> None:
    """The model has no planner."""


async def threads_of_calls(connection: LedgerTransaction, calls: Collection[UUID]) -> dict[UUID, UUID]:
    holds = (await connection.statement("find the threads of holds")).pick("hold", calls)
    return {call: hold.thread_id for call, hold in holds.items()}


async def read_handled(connection: LedgerTransaction, messages: Collection[UUID]) -> dict[UUID, Handled]:
    if not messages:
        return {}
    view = await connection.statement("read what is handled")
    found = view.pick("message", messages)
    alive = {id_ for id_, row in found.items() if view.get("thread", row.new.thread_id).status != "killed"}
    return {
        id_: Handled(id_, row.new.thread_id, row.new.to_id, row.state != "closed" and id_ in alive)
        for id_, row in found.items()
    }


async def add_thread_budgets(
    connection: LedgerTransaction, threads: Collection[UUID], max_tokens: int, budgets: Budgets
) -> None:
    if threads:
        await connection.statement("add budgets")
        for id_ in sorted(threads):
            await connection.insert(("budget", id_), thread_node(id_, {}, max_tokens))
        organism = organism_node(budgets.organism)
        await connection.insert(("budget", organism.id), organism)


async def add_agent_budgets(
    connection: LedgerTransaction, locked: Mapping[UUID, Budget], wanted: object, limits: Mapping[str, int]
) -> dict[UUID, Budget]:
    return {}


async def lock_budgets(connection: LedgerTransaction, threads: Collection[UUID]) -> dict[UUID, Budget]:
    if not threads:
        return {}
    return await connection.lock_budgets(await connection.statement("lock budgets"), threads)


async def lock_budgets_of(connection: LedgerTransaction, calls: Iterable[UUID], threads: Collection[UUID]) -> set[UUID]:
    view = await connection.statement("lock budgets of calls")
    held = {hold.thread_id for hold in view.pick("hold", calls).values()}
    return set(await connection.lock_budgets(view, held.union(threads)))


async def read_state(connection: LedgerTransaction) -> OrganismState:
    period, _ = (await connection.statement("read the period")).get("state", 1) or (1, None)
    return OrganismState(None, period, connection.db.now)


async def read_periods(connection: LedgerTransaction) -> tuple[tuple[int, datetime], ...]:
    return tuple(sorted((await connection.statement("read the periods")).table("period").items())) or ((1, EPOCH),)


async def read_holds(connection: LedgerTransaction, calls: Collection[UUID]) -> dict[UUID, Hold]:
    return (await connection.fresh("read holds")).pick("hold", calls) if calls else {}


async def read_bookings(connection: LedgerTransaction, calls: Collection[UUID]) -> dict[UUID, Booking]:
    return (await connection.fresh("read bookings")).pick("booking", calls) if calls else {}


async def overdue_calls(connection: LedgerTransaction, limit: int) -> dict[UUID, UUID]:
    holds = (await connection.statement("find holds that are over")).table("hold").values()
    over = [hold for hold in holds if hold.state is HoldState.HELD and hold.expires_at <= connection.db.now]
    return {hold.call_id: hold.thread_id for hold in sorted(over, key=lambda hold: hold.expires_at)[:limit]}


async def add_holds(connection: LedgerTransaction, holds: Sequence[Hold]) -> None:
    if holds:
        await connection.statement("add holds")
        for hold in holds:
            await connection.insert_unique(("hold", hold.call_id), hold)


async def move_holds(connection: LedgerTransaction, states: Mapping[UUID, HoldState]) -> None:
    if states:
        view = await connection.statement("move holds")
        for call, state in states.items():
            if state is HoldState.SETTLED:
                await _delete(connection, "hold", call)
            else:
                await _update(connection, view, "hold", call, state=state)


async def remove_bookings(connection: LedgerTransaction, bookings: Collection[Booking]) -> None:
    if bookings:
        view = await connection.statement("remove bookings")
        for call in view.pick("booking", [booking.call_id for booking in bookings]):
            await connection.lock(("booking", call))
            connection.writes["booking", call] = None


async def add_bookings(connection: LedgerTransaction, bookings: Sequence[Booking]) -> int:
    if not bookings:
        return 0
    await connection.statement("add bookings")
    new = 0
    for booking in bookings:
        new += await _add_booking(connection, booking)
    return new


async def save_budgets(connection: LedgerTransaction, budgets: Collection[Budget]) -> None:
    if budgets:
        view = await connection.statement("save budgets")
        for budget in budgets:
            sums = {name: getattr(budget, name) for name in _SUMS}
            await _update(connection, view, "budget", budget.id, **sums)


async def add_rollups(connection: LedgerTransaction, rollups: Mapping[RollupKey, Sums]) -> None:
    if rollups:
        await connection.statement("add rollups")
        await _add_rollups(connection, rollups)


async def add_tag_rollups(connection: LedgerTransaction, rollups: Mapping[TagKey, TagSums]) -> None:
    """No thread of the model has a tag."""


async def add_latencies(connection: LedgerTransaction, rollups: Mapping[LatencyKey, LatencySums]) -> None:
    """Not modelled: added as other rollups are."""


async def add_prices(connection: LedgerTransaction, prices: Mapping[int, object]) -> None:
    """Not modelled: they never change."""


async def in_slices(items: Sequence[UsageEvent]) -> AsyncIterator[Sequence[UsageEvent]]:
    yield items


def settling_columns(measured: Sequence[Measured]) -> Sequence[Measured]:
    return measured


async def settle_holds(connection: LedgerTransaction, columns: Sequence[Measured], *, percent: int) -> Settlement:
    view = await connection.statement("settle holds")
    settled, bookings, freed = [], [], {}
    for place, event in enumerate(columns):
        hold = await _settle(connection, view, event)
        if hold is not None:
            settled.append(Settled(place, hold.message_id, hold.thread_id, hold.agent_id, hold.period))
            bookings.append(_booking(event, hold))
            freed[event.call_id] = hold.size
    rollups: dict[RollupKey, Sums] = {}
    for booking in bookings:
        await _insert_booking(connection, booking)
        await _move_budget(connection, view, booking, freed[booking.call_id])
        for key in _rollup_keys(booking):
            rollups.setdefault(key, Sums()).add(booking, 1)
    await _add_rollups(connection, rollups)
    return Settlement(settled, [], len(settled))


async def _settle(connection: LedgerTransaction, view: View, event: Measured) -> Hold | None:
    def fits(hold: Hold) -> bool:
        in_any_state = Shortcut.SETTLED_IN_ANY_STATE in connection.shortcuts
        return (hold.state is HoldState.HELD or in_any_state) and hold.granted_at == event.granted_at

    keys = [("hold", event.call_id)]
    changed = await connection.update(view, keys, fits, lambda hold: replace(hold, state=HoldState.SETTLED))
    for hold in changed:
        connection.writes["hold", hold.call_id] = None
    return changed[0] if changed else None


async def _delete(connection: LedgerTransaction, table: str, id_: UUID) -> None:
    await connection.lock((table, id_))
    connection.writes[table, id_] = None


async def _move_budget(connection: LedgerTransaction, view: View, booking: Booking, freed: int) -> None:
    def moved(budget: Budget) -> Budget:
        return replace(
            budget,
            held=budget.held - freed,
            prompt_tokens=budget.prompt_tokens + booking.tokens.prompt_tokens,
            completion_tokens=budget.completion_tokens + booking.tokens.completion_tokens,
            requests=budget.requests + 1,
            cost=budget.cost + booking.cost,
        )

    keys = [("budget", id_) for id_ in _paths(view, [booking.thread_id])]
    await connection.update(view, keys, lambda _: True, moved)


async def _insert_booking(connection: LedgerTransaction, booking: Booking) -> None:
    if Shortcut.SETTLED_IN_ANY_STATE in connection.shortcuts:
        await connection.lock(("booking", booking.call_id))
        connection.writes["booking", booking.call_id] = booking
    else:
        await connection.insert_unique(("booking", booking.call_id), booking)


async def _add_booking(connection: LedgerTransaction, booking: Booking) -> bool:
    return await connection.insert(("booking", booking.call_id), booking)


async def _add_rollups(connection: LedgerTransaction, rollups: Mapping[RollupKey, Sums]) -> None:
    for key in sorted(rollups):
        now: Sums = await connection.lock(("rollup", key)) or Sums()
        added = rollups[key]
        columns = {field.name: getattr(now, field.name) + getattr(added, field.name) for field in fields(Sums)}
        connection.writes["rollup", key] = Sums(**columns)


async def _update(connection: LedgerTransaction, view: View, table: str, id_: UUID, **values: Any) -> None:
    await connection.update(view, [(table, id_)], lambda _: True, lambda row: replace(row, **values))


def _rollup_keys(booking: Booking) -> list[RollupKey]:
    named = (booking.agent_id, booking.model, booking.provider)
    at = booking.granted_at
    return [RollupKey(booking.period, grain, start_of(grain, at), *named) for grain in ("day", "hour")]


def _booking(event: Measured, hold: Hold) -> Booking:
    return Booking(
        event.call_id,
        hold.message_id,
        hold.thread_id,
        hold.agent_id,
        event.model,
        event.provider,
        event.tokens,
        event.latency_us,
        event.cost,
        event.uncached_cost,
        event.price_id,
        event.kind,
        hold.period,
        hold.granted_at,
    )
