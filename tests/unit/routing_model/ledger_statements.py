"""The statements of `storage.ledger` and `storage.ledger_settle` on the model's database: same names, same order.

Each is one statement; what books of one thread belong together is for the callers to lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from tests.unit.routing_model.database import Transaction, View
from tests.unit.routing_model.rows import Shortcut, Shortcuts
from xml_pipeline.storage.ledger_rows import (
    Booking,
    Budget,
    Handled,
    Hold,
    HoldState,
    Kind,
    Measured,
    RollupKey,
    Settled,
    Settlement,
    Sums,
)
from xml_pipeline.storage.organism_state import OrganismState


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
        """In thread order."""
        if Shortcut.HOLDS_READ_WITH_THE_LOCK in self.shortcuts:
            self.locking = view
        if Shortcut.BUDGETS_WITHOUT_LOCK in self.shortcuts:
            return view.pick("budget", threads)
        known = view.pick("budget", sorted(threads))
        return {id_: await self.lock(("budget", id_)) for id_ in known}


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


async def add_budgets(connection: LedgerTransaction, threads: Collection[UUID], max_tokens: int) -> None:
    if threads:
        await connection.statement("add budgets")
        for id_ in sorted(threads):
            await connection.insert(("budget", id_), Budget(id_, max_tokens))


async def lock_budgets(connection: LedgerTransaction, threads: Collection[UUID]) -> dict[UUID, Budget]:
    if not threads:
        return {}
    return await connection.lock_budgets(await connection.statement("lock budgets"), threads)


async def lock_budgets_of(connection: LedgerTransaction, calls: Iterable[UUID], threads: Collection[UUID]) -> set[UUID]:
    view = await connection.statement("lock budgets of calls")
    held = {hold.thread_id for hold in view.pick("hold", calls).values()}
    return set(await connection.lock_budgets(view, held.union(threads)))


async def read_state(connection: LedgerTransaction) -> OrganismState:
    period, started = (await connection.statement("read the period")).get("state", 1) or (1, None)
    return OrganismState(None, period, started, connection.db.now)


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
            await _update(connection, view, "hold", call, state=state)


async def remove_bookings(connection: LedgerTransaction, calls: Collection[UUID]) -> None:
    if calls:
        view = await connection.statement("remove bookings")
        for call in view.pick("booking", calls):
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
            sums = {name: getattr(budget, name) for name in ("held", "prompt_tokens", "completion_tokens")}
            await _update(connection, view, "budget", budget.thread_id, **sums)


async def add_rollups(connection: LedgerTransaction, rollups: Mapping[RollupKey, Sums]) -> None:
    if rollups:
        await connection.statement("add rollups")
        await _add_rollups(connection, rollups)


async def settle_holds(connection: LedgerTransaction, measured: Sequence[Measured], *, percent: int) -> Settlement:
    view = await connection.statement("settle holds")
    settled, bookings, freed = [], [], {}
    for place, event in enumerate(measured):
        hold = await _settle(connection, view, event)
        if hold is not None:
            settled.append(Settled(place, hold.message_id, hold.thread_id, hold.agent_id, hold.period))
            bookings.append(_booking(event, hold))
            freed[event.call_id] = hold.size
    rollups: dict[RollupKey, Sums] = {}
    for booking in bookings:
        await _insert_booking(connection, booking)
        await _move_budget(connection, view, booking, freed[booking.call_id])
        rollups.setdefault(_rollup_key(booking), Sums()).add(booking, 1)
    await _add_rollups(connection, rollups)
    return Settlement(settled, [])


async def _settle(connection: LedgerTransaction, view: View, event: Measured) -> Hold | None:
    def fits(hold: Hold) -> bool:
        in_any_state = Shortcut.SETTLED_IN_ANY_STATE in connection.shortcuts
        return (hold.state is HoldState.HELD or in_any_state) and hold.granted_at == event.granted_at

    keys = [("hold", event.call_id)]
    changed = await connection.update(view, keys, fits, lambda hold: replace(hold, state=HoldState.SETTLED))
    return changed[0] if changed else None


async def _move_budget(connection: LedgerTransaction, view: View, booking: Booking, freed: int) -> None:
    def moved(budget: Budget) -> Budget:
        return Budget(
            budget.thread_id,
            budget.max_tokens,
            budget.held - freed,
            budget.prompt_tokens + booking.prompt_tokens,
            budget.completion_tokens + booking.completion_tokens,
        )

    await connection.update(view, [("budget", booking.thread_id)], lambda _: True, moved)


async def _insert_booking(connection: LedgerTransaction, booking: Booking) -> None:
    if Shortcut.SETTLED_IN_ANY_STATE in connection.shortcuts:
        await connection.lock(("booking", booking.call_id))
        connection.writes["booking", booking.call_id] = booking
    else:
        await connection.insert_unique(("booking", booking.call_id), booking)


async def _add_booking(connection: LedgerTransaction, booking: Booking) -> bool:
    if Shortcut.BOOKED_WITHOUT_CONFLICT in connection.shortcuts:
        await connection.lock(("booking", booking.call_id))
        connection.writes["booking", booking.call_id] = booking
        return True
    return await connection.insert(("booking", booking.call_id), booking)


async def _add_rollups(connection: LedgerTransaction, rollups: Mapping[RollupKey, Sums]) -> None:
    for key in sorted(rollups):
        now: Sums = await connection.lock(("rollup", key)) or Sums()
        added = rollups[key]
        connection.writes["rollup", key] = Sums(
            now.requests + added.requests,
            now.prompt_tokens + added.prompt_tokens,
            now.completion_tokens + added.completion_tokens,
            now.latency_ms + added.latency_ms,
            now.cost + added.cost,
        )


async def _update(connection: LedgerTransaction, view: View, table: str, id_: UUID, **values: Any) -> None:
    await connection.update(view, [(table, id_)], lambda _: True, lambda row: replace(row, **values))


def _rollup_key(booking: Booking) -> RollupKey:
    hour = booking.granted_at.replace(minute=0, second=0, microsecond=0)
    return RollupKey(booking.period, hour, booking.agent_id, booking.model, booking.provider)


def _booking(event: Measured, hold: Hold) -> Booking:
    return Booking(
        event.call_id,
        hold.message_id,
        hold.thread_id,
        hold.agent_id,
        event.model,
        event.provider,
        event.prompt_tokens,
        event.completion_tokens,
        event.latency_ms,
        event.cost,
        event.priced,
        Kind.MEASURED,
        hold.period,
        hold.granted_at,
    )
