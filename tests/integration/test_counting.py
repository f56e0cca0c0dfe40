"""What is counted when things do not go well: by routers and by the ledger, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, ask, handled_message, used
from tests.support import routing as given
from tests.support.scrape import Scrape, told
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.metrics import LedgerMetrics
from xml_pipeline.ledger.metrics import observe as observe_ledger
from xml_pipeline.ledger.model import Rules
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.messages import HoldRelease
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.current import Configured, Current
from xml_pipeline.routing.items import Inject, Junk, Overdue
from xml_pipeline.routing.observing import observe
from xml_pipeline.storage import configuration, inbox, listeners
from xml_pipeline.storage.budget_tree import set_limits
from xml_pipeline.storage.database import Database

ORGANISM = given.organism(
    given.listener("ann", attempts=2, backoff=0.0, window=100),
    given.listener("bob", attempts=2, backoff=3600.0, agent=False, window=1),
)
RULES = Rules(1000)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database.connect(database_url)
    async with db.begin() as connection:
        await configuration.publish(connection, ORGANISM)
    yield db
    await db.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def current() -> Current:
    return Current(Configured(ORGANISM, 1, given.TagCheck()))


@pytest.fixture
def batches(db: Database, current: Current, metrics: Metrics) -> Batches:
    return Batches(db, current, metrics=metrics)


async def accept(db: Database, to: str, count: int = 1) -> list[UUID]:
    made = [given.inject(to) for _ in range(count)]
    async with db.begin() as connection:
        await inbox.accept(connection, made)
    return [one.id for one in made]


async def routed(db: Database, batches: Batches, to: str) -> UUID:
    (id_,) = await accept(db, to)
    await batches.run([Inject(id_)])
    return id_


def turns(told_: Scrape, **labels: str) -> float:
    return told_.total("organism_turns_total", **labels)


# Routers


async def test_what_may_be_counted_begins_at_zero(metrics: Metrics, batches: Batches) -> None:
    now = await told(metrics)
    for name, labels in (
        ("organism_turns_total", {"listener": "ann", "outcome": "timeout"}),
        ("organism_retries_total", {"listener": "bob", "after": "lost"}),
        ("organism_dead_letters_total", {"listener": "ann", "code": "handler-failed"}),
        ("organism_dead_letters_total", {"listener": "none", "code": "unreadable"}),
    ):
        assert now.values[name, frozenset(labels.items())] == 0


async def test_a_failure_is_a_turn_a_retry_and_in_the_end_a_dead_letter(
    db: Database, metrics: Metrics, batches: Batches
) -> None:
    id_ = await routed(db, batches, "ann")
    await batches.run([given.failed(id_)])
    after_one = await told(metrics)
    assert turns(after_one, listener="ann", outcome="error") == 1
    assert after_one.total("organism_retries_total", listener="ann", after="error") == 1
    assert after_one.total("organism_dead_letters_total") == 0
    await batches.fill()
    await batches.run([given.failed(id_, attempt=2, outcome=Outcome.TIMEOUT)])
    after_two = await told(metrics)
    assert turns(after_two, listener="ann", outcome="timeout") == 1
    assert after_two.total("organism_retries_total") == 1
    assert after_two.total("organism_dead_letters_total", listener="ann", code="timeout") == 1
    # Who is tried again has waited for a place once.
    assert after_two.total("organism_queue_wait_seconds_count", listener="ann") == 1


async def test_a_turn_that_comes_twice_is_one_turn_and_one_that_comes_too_late_is_none(
    db: Database, metrics: Metrics, batches: Batches
) -> None:
    id_ = await routed(db, batches, "ann")
    done = given.ok(id_, given.respond(given.reply("ann")))
    await batches.run([done, done])
    await batches.run([done])
    await batches.run([given.ok(id_)])
    now = await told(metrics)
    assert turns(now, listener="ann", outcome="ok") == 1
    assert turns(now, listener="ann", outcome="ignored") == 1
    assert turns(now) == 2


async def test_what_is_lost_is_a_retry_without_a_turn(db: Database, metrics: Metrics, batches: Batches) -> None:
    id_ = await routed(db, batches, "ann")
    async with db.begin() as connection:
        await connection.execute(text("update messages set deadline = now() - interval '1 second'"))
    await batches.run([Overdue(id_, 1)])
    now = await told(metrics)
    assert now.total("organism_retries_total", listener="ann", after="lost") == 1
    assert turns(now) == 0


async def test_what_nobody_knows_is_counted_under_no_name_of_its_own(metrics: Metrics, batches: Batches) -> None:
    await batches.run([given.ok(uuid4()), Junk(uuid4(), "no XML", b"junk")])
    now = await told(metrics)
    assert turns(now, listener="none", outcome="ignored") == 1
    assert now.total("organism_dead_letters_total", listener="none", code="unreadable") == 1


async def test_a_listener_that_is_gone_is_other(
    db: Database, metrics: Metrics, batches: Batches, current: Current
) -> None:
    id_ = await routed(db, batches, "ann")
    current.configured = Configured(given.organism(given.listener("eve")), 2, given.TagCheck())
    await batches.run([given.ok(id_)])
    now = await told(metrics)
    assert turns(now, listener="other", outcome="ok") == 1
    assert ("organism_turns_total", frozenset({("listener", "eve"), ("outcome", "ok")})) in now.values


async def test_batches_are_measured_whole(db: Database, metrics: Metrics, batches: Batches) -> None:
    ids = await accept(db, "ann", 5)
    await batches.run([Inject(id_) for id_ in ids])
    await batches.run([])
    now = await told(metrics)
    assert now.total("organism_router_batch_seconds_count") == 1
    assert now.total("organism_router_batch_items_sum") == 5


async def test_every_state_of_the_backlog_is_told(
    db: Database, metrics: Metrics, batches: Batches, current: Current
) -> None:
    thread = uuid4()
    waiting = [given.inject("ann", thread) for _ in range(3)]
    async with db.begin() as connection:
        await inbox.accept(connection, waiting)
    await batches.run([Inject(one.id) for one in waiting])
    parked = await routed(db, batches, "ann")
    await batches.run([given.parked(parked, 50)])
    await batches.run([given.failed(await routed(db, batches, "bob"))])
    async with db.begin() as connection:
        await connection.execute(text("update messages set created_at = now() - interval '90 seconds'"))
        await listeners.set_paused(connection, "bob", True, actor="test")
    await routed(db, batches, "bob")
    await accept(db, "bob", 2)
    bus = MemoryBroker().connect()
    await bus.declare(organism_topology(ORGANISM.name, ORGANISM.listeners))
    with observe(metrics, bus, db, current):
        now = await told(metrics)
    counts = {
        (listener, state): now.total("organism_backlog_messages", listener=listener, state=state)
        for listener in ("ann", "bob")
        for state in ("accepted", "waiting", "ready", "retrying", "parked", "out")
    }
    assert {key: count for key, count in counts.items() if count} == {
        ("ann", "waiting"): 2,
        ("ann", "out"): 1,
        ("ann", "parked"): 1,
        ("bob", "retrying"): 1,
        ("bob", "ready"): 1,
        ("bob", "accepted"): 2,
    }
    assert len([name for name, _ in now.values if name == "organism_backlog_messages"]) == len(counts)
    assert now.total("organism_backlog_oldest_seconds", listener="ann", state="waiting") >= 90
    assert now.total("organism_backlog_oldest_seconds", listener="bob", state="out") == 0
    assert now.total("organism_listener_paused", listener="bob") == 1
    assert now.total("organism_listener_paused", listener="ann") == 0
    assert {labels for name, labels in now.values if name == "organism_queue_messages"} == {
        frozenset({("queue", queue)}) for queue in ("ingress", "dead", "agent.ann", "agent.bob")
    }
    await bus.close()


async def test_a_database_that_is_gone_takes_its_own_metrics_along_and_no_others(
    db: Database, metrics: Metrics, batches: Batches, current: Current
) -> None:
    bus = MemoryBroker().connect()
    await bus.declare(organism_topology(ORGANISM.name, ORGANISM.listeners))
    gone = Database.connect("postgresql://nobody@127.0.0.1:1/nothing")
    with observe(metrics, bus, gone, current):
        now = await told(metrics)
    assert now.total("organism_queue_messages", queue="ingress") == 0
    assert ("organism_queue_messages", frozenset({("queue", "ingress")})) in now.values
    assert not [name for name, _ in now.values if name == "organism_backlog_messages"]
    await gone.close()
    await bus.close()


# The ledger


class Ledger:
    """Books as a usage service does, and counts."""

    def __init__(self, db: Database, metrics: Metrics) -> None:
        self._db = db
        self.counts = LedgerMetrics(metrics)

    async def book(self, *messages: LedgerMessage) -> None:
        changes = await books.book(self._db, messages, rules=RULES, pricing=PRICING)
        self.counts.booked(len(messages), 0.1, changes)

    async def sweep(self) -> None:
        async with self._db.begin() as connection:
            await connection.execute(text("update holds set expires_at = now() - interval '1 second'"))
        self.counts.changed(await books.sweep(self._db, rules=RULES, pricing=PRICING))


@pytest.fixture
def ledger(db: Database, metrics: Metrics) -> Ledger:
    return Ledger(db, metrics)


async def spent(db: Database) -> tuple[int, float]:
    async with db.begin() as connection:
        row = (
            await connection.execute(text("select sum(prompt_tokens + completion_tokens), sum(cost) from usage_events"))
        ).one()
    return row[0], float(row[1])


async def test_holds_and_bookings_by_how_they_end(db: Database, metrics: Metrics, ledger: Ledger) -> None:
    message = await handled_message(db)
    settled, released, open_ = ask(message), ask(message), ask(message)
    await ledger.book(settled, released, open_)
    await ledger.book(ask(message, prompt=2000))
    await ledger.book(ask(message, prompt=760))
    await ledger.book(used(message, settled.call_id), HoldRelease(call_id=released.call_id))
    await ledger.book(used(message, settled.call_id))
    now = await told(metrics)
    assert now.total("organism_hold_replies_total", state="granted") == 3
    assert now.total("organism_hold_replies_total", state="denied") == 1
    assert now.total("organism_hold_replies_total", state="wait") == 1
    assert now.total("organism_holds_ended_total", how="settled") == 1
    assert now.total("organism_holds_ended_total", how="released") == 1
    assert now.total("organism_holds_ended_total", how="expired") == 0
    assert now.total("organism_bookings_total", kind="measured") == 1
    tokens, cost = await spent(db)
    assert now.total("organism_tokens_total", agent="greeter", model="grok-4.1") == tokens == 15
    assert now.total("organism_cost_usd_total") == pytest.approx(cost)
    assert now.total("organism_booking_messages_sum") == 8


async def test_a_call_granted_and_settled_in_one_batch_is_settled(
    db: Database, metrics: Metrics, ledger: Ledger
) -> None:
    message = await handled_message(db)
    request = ask(message)
    await ledger.book(request, used(message, request.call_id))
    now = await told(metrics)
    assert now.total("organism_holds_ended_total", how="settled") == 1
    assert now.total("organism_tokens_total") == 15


async def test_what_is_corrected_upwards_is_counted_and_downwards_is_not_taken_back(
    db: Database, metrics: Metrics, ledger: Ledger
) -> None:
    message = await handled_message(db)
    less, more = ask(message), ask(message)
    await ledger.book(less, more)
    await ledger.sweep()
    now = await told(metrics)
    assert now.total("organism_holds_ended_total", how="expired") == 2
    assert now.total("organism_bookings_total", kind="expired") == 2
    assert now.total("organism_tokens_total") == 200
    await ledger.book(used(message, less.call_id), used(message, more.call_id, prompt=80, completion=70))
    now = await told(metrics)
    assert now.total("organism_bookings_total", kind="corrected") == 2
    assert now.total("organism_tokens_total", kind="prompt") == 120 + 20
    assert now.total("organism_tokens_total", kind="completion") == 80 + 30


async def test_the_books_are_told_exactly(db: Database, metrics: Metrics, ledger: Ledger) -> None:
    message = await handled_message(db)
    settled, open_ = ask(message), ask(message)
    await ledger.book(settled, open_)
    await ledger.book(used(message, settled.call_id))
    bus = MemoryBroker().connect()
    await bus.declare(organism_topology("o", []))
    with observe_ledger(metrics, bus, db, Names("o").usage):
        now = await told(metrics)
    assert now.total("organism_holds_open") == 1
    assert now.total("organism_holds_overdue") == 0
    assert now.total("organism_budget_spent_tokens") == 15
    assert now.total("organism_budget_held_tokens") == 100
    assert now.total("organism_budget_cost_usd") == pytest.approx((await spent(db))[1])
    assert now.total("organism_queue_messages", queue="usage") == 0
    assert not [name for name, _ in now.values if name == "organism_budget_limit_tokens"]
    await set_limits(db, Budgets(organism=5000))
    with observe_ledger(metrics, bus, db, Names("o").usage):
        assert (await told(metrics)).total("organism_budget_limit_tokens") == 5000
    await bus.close()
