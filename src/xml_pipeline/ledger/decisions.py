"""The ledger's decisions over one batch: pure, so that every order of messages can be tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from xml_pipeline.ledger.model import Changes, Pricing, Rules, Situation
from xml_pipeline.ledger.paths import path_of
from xml_pipeline.ledger.replies import denied, not_handled, over, too_large
from xml_pipeline.ledger.thresholds import told
from xml_pipeline.llm.pricing import Cost
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.storage.budget_rows import Budget
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState, Kind

# What PostgreSQL's integer holds.
LARGEST_HOLD = 2**31 - 1


def decide(
    situation: Situation,
    messages: Sequence[HoldRequest | UsageEvent | HoldRelease],
    pricing: Pricing,
    rules: Rules,
) -> Changes:
    """What the messages change, in their order. Messages that were seen before change nothing."""
    batch = _Batch(situation, pricing, rules)
    for position, message in enumerate(messages):
        match message:
            case UsageEvent():
                batch.settle(position, message)
            case HoldRequest():
                batch.changes.replies[position] = batch.hold(message)
            case HoldRelease():
                batch.release(message)
    return batch.finish()


def expire(situation: Situation, pricing: Pricing, rules: Rules) -> Changes:
    """Book every hold of the situation whose time is over as used up."""
    batch = _Batch(situation, pricing, rules)
    for hold in situation.holds.values():
        if hold.state is HoldState.HELD and hold.expires_at <= situation.now:
            batch.expire(hold)
    return batch.finish()


class _Batch:
    """The situation as it develops from message to message."""

    def __init__(self, situation: Situation, pricing: Pricing, rules: Rules) -> None:
        self._situation = situation
        self._pricing = pricing
        self._rules = rules
        self._budgets = dict(situation.budgets)
        self._holds = dict(situation.holds)  # those granted in this batch are added; states are asked of `_state`
        self._bookings = dict(situation.bookings)
        self.changes = Changes()

    # Holds

    def hold(self, request: HoldRequest) -> HoldReply:
        existing = self._holds.get(request.call_id)
        if existing is not None:
            return self._repeated(existing)
        handled = self._situation.handled.get(request.message_id)
        if handled is None or not handled.open or request.call_id in self._bookings:
            return not_handled(request)
        if handled.thread_id in self.changes.kills:
            return not_handled(request)
        return self._granted_if_it_fits(request, handled)

    def _granted_if_it_fits(self, request: HoldRequest, handled: Handled) -> HoldReply:
        """All budgets on the path have room, or none is touched."""
        path = self._path(handled.thread_id, handled.agent_id)
        asked = request.prompt_bound + request.max_completion
        if asked > LARGEST_HOLD:
            return too_large(request, LARGEST_HOLD)
        for budget in path:
            if budget.spent + asked > budget.max_tokens:
                return self._denied(request, budget, handled.thread_id)
        available = min(budget.available for budget in path)
        if asked > available:
            return HoldReply(call_id=request.call_id, state="wait", remaining=max(0, available))
        return self._grant(request, handled)

    def _denied(self, request: HoldRequest, budget: Budget, thread_id: UUID) -> HoldReply:
        at_limit = self._rules.budgets.at_limit
        if at_limit == "kill":
            self.changes.kills.add(thread_id)
        return denied(request, budget, at_limit)

    def _repeated(self, hold: Hold) -> HoldReply:
        state = self._state(hold)
        return self._granted(hold) if state is HoldState.HELD else over(hold, state)

    def _grant(self, request: HoldRequest, handled: Handled) -> HoldReply:
        now = self._situation.now
        hold = Hold(
            call_id=request.call_id,
            message_id=request.message_id,
            thread_id=handled.thread_id,
            agent_id=handled.agent_id,
            model=request.model,
            provider=request.provider,
            prompt_bound=request.prompt_bound,
            max_completion=request.max_completion,
            state=HoldState.HELD,
            period=self._situation.period,
            granted_at=now,
            expires_at=now + timedelta(seconds=request.lifetime),
        )
        self._holds[hold.call_id] = self.changes.granted[hold.call_id] = hold
        self._move_held(hold, hold.size)
        return self._granted(hold)

    def _granted(self, hold: Hold) -> HoldReply:
        available = min(budget.available for budget in self._path(hold.thread_id, hold.agent_id))
        return HoldReply(call_id=hold.call_id, state="granted", granted_at=hold.granted_at, remaining=max(0, available))

    def release(self, message: HoldRelease) -> None:
        hold = self._holds.get(message.call_id)
        if hold is None:
            return
        state = self._state(hold)
        if state is HoldState.HELD:
            self._move_hold(hold, HoldState.RELEASED)
            self._move_held(hold, -hold.size)
        elif state is HoldState.EXPIRED and not self._is_archived(hold):
            self._move_hold(hold, HoldState.RELEASED)
            self._take_back(self._bookings[hold.call_id])

    def expire(self, hold: Hold) -> None:
        if hold.call_id in self._bookings:
            self._move_hold(hold, HoldState.SETTLED)
            self._move_held(hold, -hold.size)
        else:
            self._move_hold(hold, HoldState.EXPIRED)
            self._move_held(hold, -hold.size)
            self._book(self._expired(hold))

    def _expired(self, hold: Hold) -> Booking:
        tokens = Tokens(hold.prompt_bound, hold.max_completion)
        cost = self._cost(hold.provider, hold.model, tokens, hold.granted_at)
        return Booking(
            call_id=hold.call_id,
            message_id=hold.message_id,
            thread_id=hold.thread_id,
            agent_id=hold.agent_id,
            model=hold.model,
            provider=hold.provider,
            tokens=tokens,
            latency_us=None,
            cost=cost.amount,
            uncached_cost=cost.uncached,
            price_id=None if cost.price is None else cost.price.id,
            kind=Kind.EXPIRED,
            period=hold.period,
            granted_at=hold.granted_at,
        )

    # Usage

    def settle(self, position: int, event: UsageEvent) -> None:
        hold = self._holds.get(event.call_id)
        if hold is not None and self._state(hold) is not HoldState.SETTLED:
            if not self._is_archived(hold):
                self._settle_hold(event, hold)
        elif hold is None and event.call_id not in self._bookings:
            self._book_without_hold(position, event)

    def _settle_hold(self, event: UsageEvent, hold: Hold) -> None:
        state = self._state(hold)
        if state is HoldState.EXPIRED:
            self._take_back(self._bookings[hold.call_id])
        elif state is HoldState.HELD:
            self._move_held(hold, -hold.size)
        self._move_hold(hold, HoldState.SETTLED)
        handled = Handled(hold.message_id, hold.thread_id, hold.agent_id, open=True)
        self._book(self._measured(event, handled, hold.period, hold.granted_at))

    def _book_without_hold(self, position: int, event: UsageEvent) -> None:
        """The hold is not known, but the tokens are gone: they are booked where the message says."""
        handled = self._situation.handled.get(event.message_id)
        if handled is None:
            self.changes.refused.append((position, "usage of a message that is not known"))
            return
        granted_at = event.granted_at.astimezone(UTC)
        self._book(self._measured(event, handled, self._period_at(granted_at), granted_at))

    def _period_at(self, time: datetime) -> int:
        begun = [period for period, started_at in self._situation.periods if started_at <= time]
        return max(begun, default=min((period for period, _ in self._situation.periods), default=1))

    def _measured(self, event: UsageEvent, handled: Handled, period: int, granted_at: datetime) -> Booking:
        tokens = tokens_of(event)
        cost = self._cost(event.provider, event.model, tokens, granted_at)
        return Booking(
            call_id=event.call_id,
            message_id=handled.message_id,
            thread_id=handled.thread_id,
            agent_id=handled.agent_id,
            model=event.model,
            provider=event.provider,
            tokens=tokens,
            latency_us=microseconds(event.latency_ms),
            cost=cost.amount,
            uncached_cost=cost.uncached,
            price_id=None if cost.price is None else cost.price.id,
            kind=kind_of(event),
            period=period,
            granted_at=granted_at,
        )

    # What they have in common

    def _is_archived(self, hold: Hold) -> bool:
        """What an expired hold was booked as has been carried forward: it stays so, which is never below the truth."""
        return self._state(hold) is HoldState.EXPIRED and hold.call_id not in self._bookings

    def _cost(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Cost:
        cost = self._pricing(provider, model, tokens, at)
        if cost.price is not None:
            self.changes.prices[cost.price.id] = cost.price
        return cost

    def _book(self, booking: Booking) -> None:
        stored = self._situation.bookings.get(booking.call_id)
        (self.changes.booked if stored is None else self.changes.corrected)[booking.call_id] = booking
        if stored is not None:
            self.changes.replaced[booking.call_id] = stored
        self.changes.removed.pop(booking.call_id, None)
        self._bookings[booking.call_id] = booking
        self._add(booking, 1)

    def _take_back(self, booking: Booking) -> None:
        del self._bookings[booking.call_id]
        self.changes.booked.pop(booking.call_id, None)
        self.changes.corrected.pop(booking.call_id, None)
        if booking.call_id in self._situation.bookings:
            self.changes.removed[booking.call_id] = self._situation.bookings[booking.call_id]
        self._add(booking, -1)

    def _add(self, booking: Booking, sign: int) -> None:
        for budget in self._path(booking.thread_id, booking.agent_id):
            self._save(
                replace(
                    budget,
                    prompt_tokens=budget.prompt_tokens + sign * booking.tokens.prompt_tokens,
                    completion_tokens=budget.completion_tokens + sign * booking.tokens.completion_tokens,
                    requests=budget.requests + sign,
                    cost=budget.cost + sign * booking.cost,
                )
            )
        self.changes.rollups.add(booking, self._budgets[booking.thread_id].tags, sign)

    def _move_hold(self, hold: Hold, state: HoldState) -> None:
        if hold.call_id in self.changes.granted:
            self._holds[hold.call_id] = self.changes.granted[hold.call_id] = replace(hold, state=state)
        else:
            self.changes.moved[hold.call_id] = state

    def _state(self, hold: Hold) -> HoldState:
        return self.changes.moved.get(hold.call_id, hold.state)

    def _path(self, thread_id: UUID, agent_id: str) -> list[Budget]:
        return path_of(self._budgets, thread_id, agent_id)

    def _move_held(self, hold: Hold, tokens: int) -> None:
        for budget in self._path(hold.thread_id, hold.agent_id):
            self._save(replace(budget, held=budget.held + tokens))

    def _save(self, budget: Budget) -> None:
        self._budgets[budget.id] = self.changes.budgets[budget.id] = budget

    def finish(self) -> Changes:
        noted, self.changes.crossings = told(self.changes.budgets.values(), self._rules.thresholds)
        self.changes.budgets |= noted
        return self.changes


def tokens_of(event: UsageEvent) -> Tokens:
    """What an event says of tokens."""
    return Tokens(
        event.prompt_tokens,
        event.completion_tokens,
        event.cache_read_tokens,
        event.cache_write_tokens,
        event.reasoning_tokens,
        event.audio_prompt_tokens,
        event.audio_completion_tokens,
        event.image_prompt_tokens,
        event.image_completion_tokens,
    )


def kind_of(event: UsageEvent) -> Kind:
    """Whether the provider counted the tokens."""
    return Kind.ESTIMATED if event.estimated else Kind.MEASURED


def microseconds(latency_ms: float) -> int:
    """Whole microseconds: so that taking a booking back leaves nothing behind."""
    return round(latency_ms * 1000)
