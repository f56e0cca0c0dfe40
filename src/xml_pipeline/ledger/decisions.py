"""The ledger's decisions over one batch: pure, so that every order of messages can be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from xml_pipeline.ledger.model import Changes, Crossing, Situation
from xml_pipeline.llm.pricing import Cost
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.storage.ledger_rows import Booking, Budget, Hold, HoldState, Kind, RollupKey, Sums

THRESHOLDS = (75, 90, 95, 100)

# What PostgreSQL's integer holds.
LARGEST_HOLD = 2**31 - 1

Pricing = Callable[[str, str, int, int, datetime], Cost]
"""provider, model, prompt tokens, completion tokens, time -> cost"""


def decide(
    situation: Situation, messages: Sequence[HoldRequest | UsageEvent | HoldRelease], pricing: Pricing
) -> Changes:
    """What the messages change, in their order. Messages that were seen before change nothing."""
    batch = _Batch(situation, pricing)
    for position, message in enumerate(messages):
        match message:
            case UsageEvent():
                batch.settle(position, message)
            case HoldRequest():
                batch.changes.replies[position] = batch.hold(message)
            case HoldRelease():
                batch.release(message)
    return batch.finish()


def expire(situation: Situation, pricing: Pricing) -> Changes:
    """Book every hold of the situation whose time is over as used up."""
    batch = _Batch(situation, pricing)
    for hold in situation.holds.values():
        if hold.state is HoldState.HELD and hold.expires_at <= situation.now:
            batch.expire(hold)
    return batch.finish()


class _Batch:
    """The situation as it develops from message to message."""

    def __init__(self, situation: Situation, pricing: Pricing) -> None:
        self._situation = situation
        self._pricing = pricing
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
            return HoldReply(call_id=request.call_id, state="denied", reason="the message is not being handled")
        budget = self._budgets[handled.thread_id]
        asked = request.prompt_bound + request.max_completion
        if asked > LARGEST_HOLD or budget.spent + asked > budget.max_tokens:
            return _denied(request, budget, asked)
        if asked > budget.available:
            return HoldReply(call_id=request.call_id, state="wait", remaining=max(0, budget.available))
        return self._grant(request, handled.thread_id, handled.agent_id)

    def _repeated(self, hold: Hold) -> HoldReply:
        state = self._state(hold)
        if state is not HoldState.HELD:
            return HoldReply(call_id=hold.call_id, state="denied", reason=f"the hold was {state} before")
        return self._granted(hold)

    def _grant(self, request: HoldRequest, thread_id: UUID, agent_id: str) -> HoldReply:
        now = self._situation.now
        hold = Hold(
            call_id=request.call_id,
            message_id=request.message_id,
            thread_id=thread_id,
            agent_id=agent_id,
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
        self._move_budget(thread_id, held=hold.size)
        return self._granted(hold)

    def _granted(self, hold: Hold) -> HoldReply:
        available = self._budgets[hold.thread_id].available
        return HoldReply(call_id=hold.call_id, state="granted", granted_at=hold.granted_at, remaining=max(0, available))

    def release(self, message: HoldRelease) -> None:
        hold = self._holds.get(message.call_id)
        if hold is None:
            return
        state = self._state(hold)
        if state is HoldState.HELD:
            self._move_hold(hold, HoldState.RELEASED)
            self._move_budget(hold.thread_id, held=-hold.size)
        elif state is HoldState.EXPIRED:
            self._move_hold(hold, HoldState.RELEASED)
            self._take_back(self._bookings[hold.call_id])

    def expire(self, hold: Hold) -> None:
        if hold.call_id in self._bookings:
            self._move_hold(hold, HoldState.SETTLED)
            self._move_budget(hold.thread_id, held=-hold.size)
        else:
            self._move_hold(hold, HoldState.EXPIRED)
            self._book(self._expired(hold), freed=hold.size)

    def _expired(self, hold: Hold) -> Booking:
        cost = self._pricing(hold.provider, hold.model, hold.prompt_bound, hold.max_completion, hold.granted_at)
        return Booking(
            call_id=hold.call_id,
            message_id=hold.message_id,
            thread_id=hold.thread_id,
            agent_id=hold.agent_id,
            model=hold.model,
            provider=hold.provider,
            prompt_tokens=hold.prompt_bound,
            completion_tokens=hold.max_completion,
            latency_ms=Decimal(0),
            cost=cost.amount,
            priced=cost.priced,
            kind=Kind.EXPIRED,
            period=hold.period,
            granted_at=hold.granted_at,
        )

    # Usage

    def settle(self, position: int, event: UsageEvent) -> None:
        hold = self._holds.get(event.call_id)
        if hold is not None:
            self._settle_hold(event, hold)
        elif event.call_id not in self._bookings:
            self._book_without_hold(position, event)

    def _settle_hold(self, event: UsageEvent, hold: Hold) -> None:
        state = self._state(hold)
        if state is HoldState.SETTLED:
            return
        if state is HoldState.EXPIRED:
            self._take_back(self._bookings[hold.call_id])
        self._move_hold(hold, HoldState.SETTLED)
        measured = self._measured(event, hold.message_id, hold.thread_id, hold.agent_id, hold.period, hold.granted_at)
        self._book(measured, freed=hold.size if state is HoldState.HELD else 0)

    def _book_without_hold(self, position: int, event: UsageEvent) -> None:
        """The hold is not known, but the tokens are gone: they are booked where the message says."""
        handled = self._situation.handled.get(event.message_id)
        if handled is None:
            self.changes.refused.append((position, "usage of a message that is not known"))
            return
        granted_at = event.granted_at.astimezone(UTC)
        started = self._situation.period_started_at
        late = started is not None and granted_at < started
        period = self._situation.period - 1 if late else self._situation.period
        where = (handled.message_id, handled.thread_id, handled.agent_id)
        self._book(self._measured(event, *where, period, granted_at))

    def _measured(
        self,
        event: UsageEvent,
        message_id: UUID,
        thread_id: UUID,
        agent_id: str,
        period: int,
        granted_at: datetime,
    ) -> Booking:
        cost = self._pricing(event.provider, event.model, event.prompt_tokens, event.completion_tokens, granted_at)
        return Booking(
            call_id=event.call_id,
            message_id=message_id,
            thread_id=thread_id,
            agent_id=agent_id,
            model=event.model,
            provider=event.provider,
            prompt_tokens=event.prompt_tokens,
            completion_tokens=event.completion_tokens,
            latency_ms=milliseconds(event.latency_ms),
            cost=cost.amount,
            priced=cost.priced,
            kind=Kind.MEASURED,
            period=period,
            granted_at=granted_at,
        )

    # What they have in common

    def _book(self, booking: Booking, *, freed: int = 0) -> None:
        stored = booking.call_id in self._situation.bookings
        (self.changes.corrected if stored else self.changes.booked)[booking.call_id] = booking
        self.changes.removed.discard(booking.call_id)
        self._bookings[booking.call_id] = booking
        self._add(booking, 1, freed)

    def _take_back(self, booking: Booking) -> None:
        del self._bookings[booking.call_id]
        self.changes.booked.pop(booking.call_id, None)
        self.changes.corrected.pop(booking.call_id, None)
        if booking.call_id in self._situation.bookings:
            self.changes.removed.add(booking.call_id)
        self._add(booking, -1)

    def _add(self, booking: Booking, sign: int, freed: int = 0) -> None:
        prompt, completion = sign * booking.prompt_tokens, sign * booking.completion_tokens
        self._move_budget(booking.thread_id, held=-freed, prompt=prompt, completion=completion)
        key = RollupKey(booking.period, _hour(booking.granted_at), booking.agent_id, booking.model, booking.provider)
        self.changes.rollups.setdefault(key, Sums()).add(booking, sign)

    def _move_hold(self, hold: Hold, state: HoldState) -> None:
        if hold.call_id in self.changes.granted:
            self._holds[hold.call_id] = self.changes.granted[hold.call_id] = replace(hold, state=state)
        else:
            self.changes.moved[hold.call_id] = state

    def _state(self, hold: Hold) -> HoldState:
        return self.changes.moved.get(hold.call_id, hold.state)

    def _move_budget(self, thread_id: UUID, *, held: int = 0, prompt: int = 0, completion: int = 0) -> None:
        old = self._budgets[thread_id]
        self._budgets[thread_id] = self.changes.budgets[thread_id] = Budget(
            thread_id,
            old.max_tokens,
            old.held + held,
            old.prompt_tokens + prompt,
            old.completion_tokens + completion,
        )

    def finish(self) -> Changes:
        self.changes.crossings = list(_crossings(self._situation, self.changes.budgets.values()))
        return self.changes


def _denied(request: HoldRequest, budget: Budget, asked: int) -> HoldReply:
    left = max(0, budget.max_tokens - budget.spent)
    return HoldReply(
        call_id=request.call_id,
        state="denied",
        remaining=left,
        reason=f"the call may take {asked} tokens, {left} of {budget.max_tokens} are left",
    )


def _crossings(situation: Situation, budgets: Iterable[Budget]) -> Iterable[Crossing]:
    for budget in budgets:
        yield from crossings(situation.budgets[budget.thread_id].spent, budget)


def crossings(before: int, budget: Budget) -> Iterable[Crossing]:
    """The thresholds between what was spent before, and what is spent now."""
    for threshold in THRESHOLDS:
        if before * 100 < threshold * budget.max_tokens <= budget.spent * 100:
            yield Crossing(budget, threshold)


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def milliseconds(latency: float) -> Decimal:
    """Three places, exact: so that taking a booking back leaves nothing behind."""
    return Decimal(round(latency * 1000)).scaleb(-3)
