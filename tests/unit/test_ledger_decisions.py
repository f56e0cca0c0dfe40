"""The ledger's decisions under every order of messages, repeated, late and contradicting ones included."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from xml_pipeline.ledger.decisions import decide, expire
from xml_pipeline.ledger.model import Changes, Rules, Situation
from xml_pipeline.ledger.paths import path_of
from xml_pipeline.ledger.rollups import Rollups
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.organism.budgets import UNLIMITED, Budgets
from xml_pipeline.organism.model import Price
from xml_pipeline.storage.budget_rows import (
    ORGANISM_ID,
    Budget,
    Level,
    agent_node,
    agent_node_id,
    organism_node,
    tag_node,
    thread_node,
)
from xml_pipeline.storage.ledger_rows import Booking, Handled, Hold, HoldState, Kind

START = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)
PRICING = Prices([Price("m", prompt=1, completion=2)]).cost
RULES = Rules(1000)
THREADS = [UUID(int=n) for n in (1, 2)]
MESSAGES = {UUID(int=100 + n): THREADS[n % 2] for n in range(4)}
MESSAGE = UUID(int=100)
CALLS = [UUID(int=200 + n) for n in range(8)]
LIMIT = 1000

Message = HoldRequest | UsageEvent | HoldRelease


def agent_of(message: UUID) -> str:
    return "limited" if message.int >= 102 else "agent"


def tree(organism: int = 1500, team: int = 1200, thread: int = LIMIT, agent: int | None = 600) -> dict[UUID, Budget]:
    """Two threads below one organism; the first has a tag, and both have an agent with a limit of its own."""
    threads = [thread_node(THREADS[0], {"team": "blue"}, thread), thread_node(THREADS[1], {}, thread)]
    agents = [] if agent is None else [agent_node(one, "limited", agent) for one in threads]
    return {node.id: node for node in (organism_node(organism), tag_node("team", "blue", team), *threads, *agents)}


def roomy(thread: int = LIMIT) -> dict[UUID, Budget]:
    """Only threads have a limit."""
    return tree(UNLIMITED, UNLIMITED, thread, None)


@dataclass
class Books:
    """The tables, as the statements would leave them."""

    now: datetime = START
    period: int = 1
    budgets: dict[UUID, Budget] = field(default_factory=roomy)
    holds: dict[UUID, Hold] = field(default_factory=dict)
    bookings: dict[UUID, Booking] = field(default_factory=dict)
    rollups: Rollups = field(default_factory=Rollups)
    rules: Rules = RULES

    def situation(self) -> Situation:
        handled = {m: Handled(m, t, agent_of(m), open=True) for m, t in MESSAGES.items()}
        tables = (dict(self.budgets), dict(self.holds), dict(self.bookings))
        return Situation(self.now, self.period, ((1, START),), *tables, handled)

    def do(self, *messages: Message) -> list[HoldReply | None]:
        changes = decide(self.situation(), messages, PRICING, self.rules)
        self.apply(changes)
        return [changes.replies.get(position) for position in range(len(messages))]

    def expire(self) -> Changes:
        changes = expire(self.situation(), PRICING, self.rules)
        self.apply(changes)
        return changes

    def apply(self, changes: Changes) -> None:
        assert not self.holds.keys() & changes.granted.keys()
        self.holds |= changes.granted
        for call, state in changes.moved.items():
            self.holds[call] = replace(self.holds[call], state=state)
        self.holds = {call: hold for call, hold in self.holds.items() if hold.state is not HoldState.SETTLED}
        gone = changes.removed | {call: changes.replaced[call] for call in changes.corrected}
        for call, booking in gone.items():
            assert self.bookings.pop(call) == booking
        for call, booking in (changes.booked | changes.corrected).items():
            assert call not in self.bookings
            self.bookings[call] = booking
        self.budgets |= changes.budgets
        for mine, deltas in zip(_tables(self.rollups), _tables(changes.rollups), strict=True):
            for key, delta in deltas.items():
                kept = mine.setdefault(key, type(delta)())
                for column in fields(delta):
                    setattr(kept, column.name, getattr(kept, column.name) + getattr(delta, column.name))

    def check(self) -> None:
        for id_, budget in self.budgets.items():
            held = [h for h in self.holds.values() if h.state is HoldState.HELD and self._covers(id_, h)]
            spent = [b for b in self.bookings.values() if self._covers(id_, b)]
            assert budget.held == sum(h.size for h in held)
            assert (budget.spent, budget.requests) == (sum(b.spent for b in spent), len(spent))
            assert budget.cost == sum(b.cost for b in spent)
            assert budget.available + budget.held + budget.spent == budget.max_tokens
        for call, hold in self.holds.items():
            assert (call in self.bookings) == (hold.state is HoldState.EXPIRED)
        fresh = Rollups()
        for booking in self.bookings.values():
            fresh.add(booking, self.budgets[booking.thread_id].tags, 1)
        for mine, others in zip(_tables(self.rollups), _tables(fresh), strict=True):
            assert {key: sums for key, sums in mine.items() if sums.requests} == others
            assert all(sums == type(sums)() for sums in mine.values() if not sums.requests)

    def _covers(self, id_: UUID, one: Hold | Booking) -> bool:
        return any(node.id == id_ for node in path_of(self.budgets, one.thread_id, one.agent_id))


def _tables(rollups: Rollups) -> list[dict[Any, Any]]:
    return [rollups.usage, rollups.tags, rollups.latencies]


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
    books = Books(budgets=tree())
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
    together, apart = Books(budgets=tree()), Books(budgets=tree())
    together.do(*batch)
    apart.do(*batch[:cut])
    apart.do(*batch[cut:])
    assert (together.budgets, together.holds, together.bookings) == (apart.budgets, apart.holds, apart.bookings)
    together.check()


@settings(deadline=None)
@given(st.lists(steps, max_size=12))
def test_a_batch_that_comes_again_changes_nothing(batch: list[Message]) -> None:
    books = Books(budgets=tree())
    books.do(*batch)
    again = deepcopy(books)
    settled = [m for m in batch if isinstance(m, UsageEvent)]
    again.do(*settled)
    assert again.bookings == books.bookings
    assert again.rollups == books.rollups


@settings(deadline=None)
@given(st.lists(st.builds(hold, calls, messages, tokens, tokens), max_size=20))
def test_holds_never_exceed_the_limit(batch: list[Message]) -> None:
    books = Books(budgets=tree())
    books.do(*batch)
    books.check()
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
    assert reply.reason == "the call may take 240 tokens, 145 of 1000 are left of the budget of the thread"


def test_a_hold_beyond_all_measure_is_denied() -> None:
    books = Books(budgets=roomy(10**15))
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
    assert (expired.kind, expired.tokens, expired.latency_us, expired.period) == (Kind.EXPIRED, Tokens(60, 40), None, 1)
    books.do(usage(CALLS[0]))
    measured = books.bookings[CALLS[0]]
    assert (measured.kind, measured.tokens, measured.latency_us) == (Kind.MEASURED, Tokens(10, 5), 12346)
    assert measured.period == 1
    assert measured.cost == Decimal("0.00002")
    books.check()


def test_an_expired_hold_that_is_released_late_leaves_nothing() -> None:
    books = Books()
    books.do(hold(CALLS[0]))
    books.now += timedelta(seconds=31)
    books.expire()
    books.do(HoldRelease(call_id=CALLS[0]))
    assert books.budgets == roomy()
    assert not books.bookings
    books.check()


def test_usage_of_a_message_that_is_not_known_is_refused() -> None:
    changes = decide(Books().situation(), [usage(CALLS[0], UUID(int=999))], PRICING, RULES)
    assert [position for position, _ in changes.refused] == [0]
    assert not changes.booked


def test_a_message_that_is_not_open_gets_no_hold() -> None:
    situation = Books().situation()
    closed = {m: replace(handled, open=False) for m, handled in situation.handled.items()}
    asked = [hold(CALLS[0]), hold(CALLS[1], UUID(int=999))]
    changes = decide(replace(situation, handled=closed), asked, PRICING, RULES)
    assert [reply.state for reply in changes.replies.values()] == ["denied", "denied"]


def test_thresholds_are_crossed_once() -> None:
    books = Books()
    crossed = []
    for call, prompt in zip(CALLS, (700, 60, 10, 140, 80, 20, 5), strict=False):
        changes = decide(books.situation(), [usage(call, prompt=prompt, completion=0)], PRICING, RULES)
        books.apply(changes)
        crossed.append([crossing.threshold for crossing in changes.crossings])
    assert crossed == [[], [75], [], [90], [95], [100], []]


def test_a_threshold_that_was_told_of_stays_silent_when_spending_is_taken_back_and_comes_again() -> None:
    books = Books()
    books.do(hold(CALLS[0], prompt=700, completion=60))
    books.now += timedelta(seconds=31)
    assert [(c.threshold, c.budget.id) for c in books.expire().crossings] == [(75, THREADS[0])]
    books.do(HoldRelease(call_id=CALLS[0]))
    changes = decide(books.situation(), [usage(CALLS[1], prompt=760, completion=0)], PRICING, RULES)
    assert changes.crossings == []


def test_a_call_fits_all_budgets_on_its_path_or_touches_none() -> None:
    books = Books(budgets=tree(organism=150, team=UNLIMITED, agent=None))
    replies = books.do(hold(CALLS[0]), hold(CALLS[1], UUID(int=101)))
    assert [reply and reply.state for reply in replies] == ["granted", "wait"]
    assert [books.budgets[id_].held for id_ in (ORGANISM_ID, *THREADS)] == [100, 100, 0]
    books.do(usage(CALLS[0], prompt=60, completion=0))
    (reply,) = books.do(hold(CALLS[1], UUID(int=101)))
    assert reply is not None
    assert (reply.state, reply.remaining, reply.asked) == ("denied", 90, 100)
    assert reply.reason == "the call may take 100 tokens, 90 of 150 are left of the budget of the organism"
    books.check()


def test_an_agent_has_a_limit_within_its_thread() -> None:
    books = Books(budgets=tree(UNLIMITED, UNLIMITED, agent=150))
    limited, other = UUID(int=102), UUID(int=100)
    replies = books.do(hold(CALLS[0], limited), hold(CALLS[1], limited), hold(CALLS[2], other))
    assert [reply and reply.state for reply in replies] == ["granted", "wait", "granted"]
    assert books.budgets[agent_node_id(THREADS[0], "limited")].held == 100
    assert books.budgets[THREADS[0]].held == 200


def test_at_the_limit_of_a_tag_the_reply_says_what_is_configured() -> None:
    books = Books(budgets=tree(UNLIMITED, 90, agent=None), rules=Rules(1000, Budgets(at_limit="park")))
    here, elsewhere = books.do(hold(CALLS[0]), hold(CALLS[1], UUID(int=101)))
    assert here is not None
    assert elsewhere is not None
    assert (here.state, here.at_limit, here.asked) == ("denied", "park", 100)
    assert here.reason is not None
    assert "team=blue" in here.reason
    assert elsewhere.state == "granted"


def test_at_the_limit_a_thread_is_killed_where_that_is_configured() -> None:
    books = Books(budgets=roomy(90), rules=Rules(90, Budgets(at_limit="kill")))
    changes = decide(books.situation(), [hold(CALLS[0]), hold(CALLS[1], prompt=1)], PRICING, books.rules)
    assert changes.kills == {THREADS[0]}
    assert [reply.state for reply in changes.replies.values()] == ["denied", "denied"]


def test_usage_without_a_hold_belongs_to_the_period_of_its_grant() -> None:
    situation = replace(
        Books(period=3).situation(),
        periods=((1, START - timedelta(days=9)), (2, START - timedelta(days=2)), (3, START + timedelta(seconds=1))),
    )
    changes = decide(situation, [usage(CALLS[0])], PRICING, RULES)
    assert [booking.period for booking in changes.booked.values()] == [2]


def test_a_node_says_whose_it_is() -> None:
    nodes = tree()
    assert [node.name for node in path_of(nodes, THREADS[0], "limited")] == [
        "organism",
        "team=blue",
        str(THREADS[0]),
        f"limited in {THREADS[0]}",
    ]
    assert [node.level for node in nodes.values()][:2] == [Level.ORGANISM, Level.TAG]
