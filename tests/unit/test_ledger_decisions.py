"""The ledger's decisions under every order of messages, repeated, late and contradicting ones included."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from xml_pipeline.ledger.decisions import decide, expire
from xml_pipeline.ledger.model import Changes, Situation
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.organism.model import Price
from xml_pipeline.storage.ledger_rows import Booking, Budget, Handled, Hold, HoldState, Kind, RollupKey, Sums

START = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
PRICING = Prices([Price("m", prompt=1, completion=2)]).cost
THREADS = [UUID(int=n) for n in (1, 2)]
MESSAGES = {UUID(int=100 + n): THREADS[n % 2] for n in range(4)}
MESSAGE = UUID(int=100)
CALLS = [UUID(int=200 + n) for n in range(8)]
LIMIT = 1000

Message = HoldRequest | UsageEvent | HoldRelease


@dataclass
class Books:
    """The tables, as the statements would leave them."""

    now: datetime = START
    period: int = 1
    budgets: dict[UUID, Budget] = field(default_factory=lambda: {t: Budget(t, LIMIT) for t in THREADS})
    holds: dict[UUID, Hold] = field(default_factory=dict)
    bookings: dict[UUID, Booking] = field(default_factory=dict)
    rollups: dict[RollupKey, Sums] = field(default_factory=dict)

    def situation(self) -> Situation:
        handled = {m: Handled(m, t, "agent", open=True) for m, t in MESSAGES.items()}
        tables = (dict(self.budgets), dict(self.holds), dict(self.bookings))
        return Situation(self.now, self.period, None, *tables, handled)

    def do(self, *messages: Message) -> list[HoldReply | None]:
        changes = decide(self.situation(), messages, PRICING)
        self.apply(changes)
        return [changes.replies.get(position) for position in range(len(messages))]

    def expire(self) -> Changes:
        changes = expire(self.situation(), PRICING)
        self.apply(changes)
        return changes

    def apply(self, changes: Changes) -> None:
        assert not self.holds.keys() & changes.granted.keys()
        self.holds |= changes.granted
        for call, state in changes.moved.items():
            self.holds[call] = replace(self.holds[call], state=state)
        for call in changes.removed | set(changes.corrected):
            del self.bookings[call]
        for call, booking in (changes.booked | changes.corrected).items():
            assert call not in self.bookings
            self.bookings[call] = booking
        self.budgets |= changes.budgets
        for key, delta in changes.rollups.items():
            mine = self.rollups.setdefault(key, Sums())
            for name in ("requests", "prompt_tokens", "completion_tokens", "latency_ms", "cost"):
                setattr(mine, name, getattr(mine, name) + getattr(delta, name))

    def check(self) -> None:
        for thread, budget in self.budgets.items():
            held = [h.size for h in self.holds.values() if h.thread_id == thread and h.state is HoldState.HELD]
            spent = [b.prompt_tokens + b.completion_tokens for b in self.bookings.values() if b.thread_id == thread]
            assert budget.held == sum(held)
            assert budget.spent == sum(spent)
            assert budget.available + budget.held + budget.spent == budget.max_tokens
        for call, hold in self.holds.items():
            assert (call in self.bookings) == (hold.state in {HoldState.SETTLED, HoldState.EXPIRED})
        fresh: dict[RollupKey, Sums] = {}
        for b in self.bookings.values():
            hour = b.granted_at.replace(minute=0, second=0, microsecond=0)
            fresh.setdefault(RollupKey(b.period, hour, b.agent_id, b.model, b.provider), Sums()).add(b, 1)
        assert {k: s for k, s in self.rollups.items() if s.requests} == fresh
        assert all(s == Sums() for s in self.rollups.values() if not s.requests)


def hold(call: UUID, message: UUID = MESSAGE, prompt: int = 60, completion: int = 40) -> HoldRequest:
    return HoldRequest(
        call_id=call,
        message_id=message,
        model="m",
        provider="p",
        prompt_bound=prompt,
        max_completion=completion,
        lifetime=30,
    )


def usage(call: UUID, message: UUID = MESSAGE, prompt: int = 10, completion: int = 5) -> UsageEvent:
    return UsageEvent(
        call_id=call,
        message_id=message,
        granted_at=START,
        model="m",
        provider="p",
        prompt_tokens=prompt,
        completion_tokens=completion,
        latency_ms=12.3456,
    )


calls = st.sampled_from(CALLS)
messages = st.sampled_from(list(MESSAGES))
tokens = st.integers(0, 700)
steps = st.one_of(
    st.builds(hold, calls, messages, tokens, tokens),
    st.builds(usage, calls, messages, tokens, tokens),
    st.builds(lambda call: HoldRelease(call_id=call), calls),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.lists(steps, min_size=1, max_size=8), st.integers(1, 40)), max_size=12))
def test_the_books_always_balance(batches: list[list[Message] | int]) -> None:
    books = Books()
    for batch in batches:
        if isinstance(batch, int):
            books.now += timedelta(seconds=batch)
            books.expire()
        else:
            books.do(*batch)
        books.check()


@settings(deadline=None)
@given(st.lists(steps, max_size=12), st.integers(0, 11))
def test_one_batch_does_what_many_do(batch: list[Message], cut: int) -> None:
    together, apart = Books(), Books()
    together.do(*batch)
    apart.do(*batch[:cut])
    apart.do(*batch[cut:])
    assert (together.budgets, together.holds, together.bookings) == (apart.budgets, apart.holds, apart.bookings)


@settings(deadline=None)
@given(st.lists(steps, max_size=12))
def test_a_batch_that_comes_again_changes_nothing(batch: list[Message]) -> None:
    books = Books()
    books.do(*batch)
    again = deepcopy(books)
    settled = [m for m in batch if isinstance(m, UsageEvent)]
    again.do(*settled)
    assert again.bookings == books.bookings
    assert again.rollups == books.rollups


@settings(deadline=None)
@given(st.lists(st.builds(hold, calls, messages, tokens, tokens), max_size=20))
def test_holds_never_exceed_the_limit(batch: list[Message]) -> None:
    books = Books()
    books.do(*batch)
    assert all(budget.available >= 0 for budget in books.budgets.values())


def test_waits_where_only_holds_stand_in_the_way_and_is_denied_where_spending_does() -> None:
    books = Books()
    assert [r and r.state for r in books.do(hold(CALLS[0], prompt=900, completion=0), hold(CALLS[1], prompt=200))] == [
        "granted",
        "wait",
    ]
    books.do(usage(CALLS[0], prompt=850))
    (reply,) = books.do(hold(CALLS[1], prompt=200))
    assert reply is not None
    assert (reply.state, reply.remaining) == ("denied", 145)
    assert reply.reason == "the call may take 240 tokens, 145 of 1000 are left"


def test_a_hold_beyond_all_measure_is_denied() -> None:
    books = Books(budgets={thread: Budget(thread, 10**15) for thread in THREADS})
    replies = books.do(hold(CALLS[0], prompt=10**13), hold(CALLS[1], prompt=2**31 - 1, completion=0))
    assert [reply and reply.state for reply in replies] == ["denied", "granted"]


def test_a_hold_that_is_asked_for_again_is_granted_with_the_same_time() -> None:
    books = Books()
    (first,) = books.do(hold(CALLS[0]))
    books.now += timedelta(seconds=5)
    (second,) = books.do(hold(CALLS[0]))
    assert first is not None
    assert second is not None
    assert (second.state, second.granted_at) == ("granted", first.granted_at)
    assert books.budgets[THREADS[0]].held == 100


def test_more_than_was_held_is_booked_as_it_is() -> None:
    books = Books()
    books.do(hold(CALLS[0]), usage(CALLS[0], prompt=5000, completion=7))
    assert books.budgets[THREADS[0]].spent == 5007
    assert books.budgets[THREADS[0]].available == LIMIT - 5007
    books.check()


def test_an_expired_hold_is_booked_at_its_size_and_corrected_by_a_late_event() -> None:
    books = Books()
    books.do(hold(CALLS[0]))
    books.now += timedelta(seconds=31)
    books.period = 2
    books.expire()
    expired = books.bookings[CALLS[0]]
    assert (expired.kind, expired.prompt_tokens, expired.completion_tokens, expired.period) == (Kind.EXPIRED, 60, 40, 1)
    books.do(usage(CALLS[0]))
    measured = books.bookings[CALLS[0]]
    assert (measured.kind, measured.prompt_tokens, measured.completion_tokens) == (Kind.MEASURED, 10, 5)
    assert measured.period == 1
    assert measured.cost == Decimal("0.00002")
    books.check()


def test_an_expired_hold_that_is_released_late_leaves_nothing() -> None:
    books = Books()
    books.do(hold(CALLS[0]))
    books.now += timedelta(seconds=31)
    books.expire()
    books.do(HoldRelease(call_id=CALLS[0]))
    assert books.budgets[THREADS[0]] == Budget(THREADS[0], LIMIT)
    assert not books.bookings
    books.check()


def test_usage_of_a_message_that_is_not_known_is_refused() -> None:
    changes = decide(Books().situation(), [usage(CALLS[0], UUID(int=999))], PRICING)
    assert [position for position, _ in changes.refused] == [0]
    assert not changes.booked


def test_a_message_that_is_not_open_gets_no_hold() -> None:
    situation = Books().situation()
    closed = {m: replace(handled, open=False) for m, handled in situation.handled.items()}
    changes = decide(replace(situation, handled=closed), [hold(CALLS[0]), hold(CALLS[1], UUID(int=999))], PRICING)
    assert [reply.state for reply in changes.replies.values()] == ["denied", "denied"]


def test_thresholds_are_crossed_once() -> None:
    books = Books()
    crossed = []
    for call, prompt in zip(CALLS, (700, 60, 10, 140, 80, 20, 5), strict=False):
        changes = decide(books.situation(), [usage(call, prompt=prompt, completion=0)], PRICING)
        books.apply(changes)
        crossed.append([crossing.threshold for crossing in changes.crossings])
    assert crossed == [[], [75], [], [90], [95], [100], []]
