"""One batch, one transaction: lock, read, decide, write."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.failpoints import failpoint
from xml_pipeline.ledger.decisions import decide, expire
from xml_pipeline.ledger.feed import budget_event
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Crossing, Pricing, Rules, Situation
from xml_pipeline.ledger.settling import lone_events, measure, positions_left, settled_bookings, with_decided
from xml_pipeline.ledger.slices import in_slices
from xml_pipeline.ledger.thresholds import told
from xml_pipeline.llm.pricing import PriceUsed
from xml_pipeline.message_bus.messages import HoldRequest, UsageEvent
from xml_pipeline.storage import budget_tree as tree
from xml_pipeline.storage import ledger as rows
from xml_pipeline.storage import rollups, webhooks
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState, Measured
from xml_pipeline.storage.ledger_settle import lock_budgets_of, settle_holds, settling_columns
from xml_pipeline.storage.organism_state import read_periods, read_state
from xml_pipeline.storage.webhooks import NewDelivery

SWEEP_LIMIT = 500


class Conflict(XmlPipelineError):
    """Another service booked one of these calls at the same time; the batch has to be done again."""

    code = "ledger-conflict"


class _Unusual(XmlPipelineError):
    """The batch books more than held holds. Rollups are locked last, so it has to be decided as a whole."""

    code = "ledger-unusual"


@dataclass(frozen=True, slots=True)
class _Usual:
    """The events of a batch that may settle holds, priced, and as the database takes them."""

    measured: list[Measured]
    prices: dict[int, PriceUsed]
    columns: Mapping[str, Any]


async def book(
    db: Database,
    messages: Sequence[LedgerMessage],
    *,
    rules: Rules,
    pricing: Pricing,
    turn: asyncio.Lock | None = None,
) -> Changes:
    """Do what a batch asks, in one transaction, and return what changed once it is committed.

    Threads seen for the first time get the budgets that `rules` give. `turn` is held from the transaction on, when all
    that needs no database is done: batches of one service keep their order. Raises DatabaseUnavailable, Conflict, and
    the driver's errors for deadlocks and for data that the database refuses; nothing is changed then.
    """
    usual = await _usual(messages, pricing)
    async with turn or nullcontext():
        if usual is not None:
            with suppress(_Unusual):
                return await _settle(db, messages, usual, rules, pricing)
        return await _decide(db, messages, rules, pricing)


async def _usual(messages: Sequence[LedgerMessage], pricing: Pricing) -> _Usual | None:
    prices: dict[int, PriceUsed] = {}
    measured: list[Measured] = []
    async for events in in_slices(lone_events(messages)):
        measured.extend(measure(event, pricing, prices) for event in events)
    return _Usual(measured, prices, settling_columns(measured)) if measured else None


async def _settle(
    db: Database, messages: Sequence[LedgerMessage], usual: _Usual, rules: Rules, pricing: Pricing
) -> Changes:
    """The usual batch: most of it settles holds, which takes one statement. What is left may grant and release."""
    async with db.begin() as connection:
        await rows.plan_by_keys(connection)
        asked = {message.message_id for message in messages if isinstance(message, HoldRequest)}
        handled = await rows.read_handled(connection, asked)
        threads = {known.thread_id for known in handled.values()}
        await tree.add_thread_budgets(connection, threads, rules.max_tokens, rules.budgets)
        locked = await lock_budgets_of(connection, [message.call_id for message in messages], threads)
        changes = await _settle_held(connection, usual, locked, rules)
        left = positions_left(messages, changes.settled)
        if left:
            decided = await _decide_left(connection, [messages[at] for at in left], locked, handled, rules, pricing)
            changes = with_decided(changes, decided, left)
        used = {booking.price_id for booking in changes.settled}
        changes.prices = {id_: price for id_, price in usual.prices.items() if id_ in used}
        await rows.add_prices(connection, changes.prices)
        failpoint("usage.before-commit")
        return changes


async def _settle_held(connection: AsyncConnection, usual: _Usual, locked: set[UUID], rules: Rules) -> Changes:
    settlement = await settle_holds(connection, usual.columns, percent=min(rules.thresholds))
    _require_locked({row.thread_id for row in settlement.settled}, locked)
    if settlement.gone != len(settlement.settled):
        raise Conflict("a hold of this batch was changed by somebody who has not locked its budgets")
    noted, crossings = told(settlement.budgets, rules.thresholds)
    await rows.save_budgets(connection, noted.values())
    await _announce(connection, crossings, rules)
    return Changes(settled=settled_bookings(usual.measured, settlement.settled), budgets=noted, crossings=crossings)


async def _decide_left(
    connection: AsyncConnection,
    messages: Sequence[LedgerMessage],
    locked: set[UUID],
    handled: Mapping[UUID, Handled],
    rules: Rules,
    pricing: Pricing,
) -> Changes:
    calls = list({message.call_id for message in messages})
    held = await rows.threads_of_calls(connection, calls)
    threads = {known.thread_id for known in handled.values()}.union(held.values())
    _require_locked(threads, locked)
    situation = await _locked(connection, threads, calls, handled, rules)
    changes = decide(situation, messages, pricing, rules)
    if changes.rollups.usage or changes.refused:
        raise _Unusual("usage without a held hold")
    return await _write(connection, changes, rules)


def _require_locked(threads: set[UUID], locked: set[UUID]) -> None:
    if not threads <= locked:
        raise Conflict("a call of this batch was given a hold by another service")


async def _decide(db: Database, messages: Sequence[LedgerMessage], rules: Rules, pricing: Pricing) -> Changes:
    async with db.begin() as connection:
        await rows.plan_by_keys(connection)
        situation = await _situation(connection, messages, rules)
        changes = await _write(connection, decide(situation, messages, pricing, rules), rules)
        failpoint("usage.before-commit")
        return changes


async def sweep(db: Database, *, rules: Rules, pricing: Pricing) -> Changes:
    """Book the holds whose time is over, at most `SWEEP_LIMIT`, in one transaction. Raises as `book` does."""
    async with db.begin() as connection:
        await rows.plan_by_keys(connection)
        overdue = await rows.overdue_calls(connection, SWEEP_LIMIT)
        if not overdue:
            return Changes()
        situation = await _locked(connection, set(overdue.values()), list(overdue), {}, rules, check_all=True)
        return await _write(connection, expire(situation, pricing, rules), rules)


async def _situation(connection: AsyncConnection, messages: Sequence[LedgerMessage], rules: Rules) -> Situation:
    calls = list({message.call_id for message in messages})
    held = await rows.threads_of_calls(connection, calls)
    handled = await rows.read_handled(connection, _messages_to_read(messages, held))
    new = {known.thread_id for known in handled.values()}.difference(held.values())
    await tree.add_thread_budgets(connection, new, rules.max_tokens, rules.budgets)
    return await _locked(connection, new.union(held.values()), calls, handled, rules)


def _messages_to_read(messages: Sequence[LedgerMessage], held: Collection[UUID]) -> set[UUID]:
    """The messages that calls are charged to for which there is no hold yet."""
    return {
        message.message_id
        for message in messages
        if isinstance(message, HoldRequest | UsageEvent) and message.call_id not in held
    }


async def _locked(
    connection: AsyncConnection,
    threads: set[UUID],
    calls: Sequence[UUID],
    handled: Mapping[UUID, Handled],
    rules: Rules,
    *,
    check_all: bool = False,
) -> Situation:
    budgets = await tree.lock_budgets(connection, threads)
    asked = [(known.thread_id, known.agent_id) for known in handled.values()]
    budgets |= await tree.add_agent_budgets(connection, budgets, asked, rules.budgets.agents)
    state = await read_state(connection)
    periods = await read_periods(connection)
    holds = await rows.read_holds(connection, calls)
    if any(hold.thread_id not in budgets for hold in holds.values()):
        raise Conflict("a call of this batch was given a hold by another service")
    bookings = await rows.read_bookings(connection, calls if check_all else _calls_to_check(calls, holds))
    return Situation(state.now, state.usage_period, periods, budgets, holds, bookings, handled)


def _calls_to_check(calls: Sequence[UUID], holds: Mapping[UUID, Hold]) -> list[UUID]:
    """Calls that may be booked although no settled hold says so."""
    return [call for call in calls if (hold := holds.get(call)) is None or hold.state is HoldState.EXPIRED]


async def _write(connection: AsyncConnection, changes: Changes, rules: Rules) -> Changes:
    await rows.add_holds(connection, _kept(changes.granted))
    await rows.move_holds(connection, changes.moved)
    replaced = [changes.replaced[call] for call in changes.corrected]
    await rows.remove_bookings(connection, [*changes.removed.values(), *replaced])
    await _add_bookings(connection, [*changes.booked.values(), *changes.corrected.values()])
    await rows.save_budgets(connection, changes.budgets.values())
    await _announce(connection, changes.crossings, rules)
    await rollups.add_rollups(connection, changes.rollups.usage)
    await rollups.add_tag_rollups(connection, changes.rollups.tags)
    await rollups.add_latencies(connection, changes.rollups.latencies)
    await rows.add_prices(connection, changes.prices)
    return changes


async def _announce(connection: AsyncConnection, crossings: Sequence[Crossing], rules: Rules) -> None:
    """Have the webhook told, once this transaction is committed and not before."""
    if rules.budgets.webhook is not None:
        news = [NewDelivery(one.budget.id, one.threshold, budget_event(one)) for one in crossings]
        await webhooks.add_deliveries(connection, news)


def _kept(granted: Mapping[UUID, Hold]) -> list[Hold]:
    """The holds of a batch that granted and settled some at once."""
    return [hold for hold in granted.values() if hold.state is not HoldState.SETTLED]


async def _add_bookings(connection: AsyncConnection, bookings: list[Booking]) -> None:
    if await rows.add_bookings(connection, bookings) != len(bookings):
        raise Conflict("a call of this batch was booked by another service")
