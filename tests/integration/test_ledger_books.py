"""The ledger's transactions on PostgreSQL, from several services at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, ask, check_books, handled_message, numbers, used
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest
from xml_pipeline.organism.budgets import UNLIMITED, Budgets, TagBudgets
from xml_pipeline.storage.budget_tree import set_limits
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import reset_usage
from xml_pipeline.storage.usage import overview, totals

LIMIT = 1000
RULES = Rules(LIMIT)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


async def book(db: Database, *messages: LedgerMessage, limit: int = LIMIT) -> Changes:
    return await books.book(db, messages, rules=Rules(limit), pricing=PRICING)


async def one_reply(db: Database, request: HoldRequest, limit: int = LIMIT) -> HoldReply:
    return (await book(db, request, limit=limit)).replies[0]


async def end_holds(db: Database) -> None:
    """The holds that no service has locked are overdue: who locks in no order must not wait."""
    overdue = """
        update holds set expires_at = now() - interval '1 second'
        where call_id in (select call_id from holds for update skip locked)
    """
    async with db.begin() as connection:
        await connection.execute(text(overdue))


async def test_a_hold_belongs_to_the_thread_and_agent_of_the_message(db: Database) -> None:
    thread = uuid4()
    message = await handled_message(db, thread, agent="planner")
    request = ask(message)
    reply = await one_reply(db, request)
    assert (reply.state, reply.remaining) == ("granted", LIMIT - 100)
    found = await numbers(db, "select thread_id, agent_id, state from holds where call_id = :id", id=request.call_id)
    assert found == (thread, "planner", "held")
    await check_books(db)


async def test_a_hold_is_denied_for_messages_that_nobody_handles(db: Database) -> None:
    closed, killed = await handled_message(db), await handled_message(db)
    async with db.begin() as connection:
        await connection.execute(text("update messages set state = 'closed' where id = :id"), {"id": closed})
        await connection.execute(
            text("update threads set status = 'killed' from messages m where m.thread_id = threads.id and m.id = :id"),
            {"id": killed},
        )
    for message in (closed, killed, uuid4()):
        assert (await one_reply(db, ask(message))).state == "denied"


async def test_fifty_calls_at_once_on_a_budget_for_ten(db: Database) -> None:
    message = await handled_message(db)

    async def call() -> str:
        request = ask(message)
        while (reply := await one_reply(db, request)).state == "wait":
            pass
        if reply.state == "granted":
            await book(db, used(message, request.call_id, prompt=60, completion=40))
        return reply.state

    states = await asyncio.gather(*(call() for _ in range(50)))
    assert sorted(states) == ["denied"] * 40 + ["granted"] * 10
    assert await numbers(db, "select held, prompt_tokens, completion_tokens from budgets where level = 2") == (
        0,
        600,
        400,
    )
    assert await numbers(db, "select count(*) from usage_events") == (10,)
    await check_books(db)


async def test_a_hundred_duplicates_in_any_order_count_once(db: Database) -> None:
    message = await handled_message(db)
    requests = [ask(message) for _ in range(3)]
    await book(db, *requests)
    copies: list[LedgerMessage] = []
    copies.extend(used(message, request.call_id) for request in requests * 100)
    random.Random(1).shuffle(copies)
    await retried(db, [copies[start : start + 20] for start in range(0, len(copies), 20)])
    assert await numbers(db, "select count(*) from usage_events") == (3,)
    assert await numbers(db, "select held, prompt_tokens, completion_tokens from budgets where level = 2") == (
        0,
        30,
        15,
    )
    await check_books(db)


async def test_an_overdue_hold_is_booked_at_its_size_and_corrected_by_its_event(db: Database) -> None:
    message = await handled_message(db)
    request = ask(message)
    await book(db, request)
    await end_holds(db)
    await asyncio.gather(*(books.sweep(db, rules=RULES, pricing=PRICING) for _ in range(4)))
    found = await numbers(db, "select kind, prompt_tokens, completion_tokens from usage_events")
    assert found == ("expired", 60, 40)
    await check_books(db)
    await book(db, used(message, request.call_id))
    found = await numbers(db, "select kind, prompt_tokens, completion_tokens, cost from usage_events")
    assert found[:3] == ("measured", 10, 5)
    assert float(str(found[3])) == 0.000105
    await check_books(db)


async def test_an_overdue_hold_that_is_released_late_leaves_nothing(db: Database) -> None:
    message = await handled_message(db)
    request = ask(message)
    await book(db, request)
    await end_holds(db)
    await books.sweep(db, rules=RULES, pricing=PRICING)
    await book(db, HoldRelease(call_id=request.call_id))
    assert await numbers(db, "select count(*) from usage_events") == (0,)
    assert await numbers(db, "select held, prompt_tokens, completion_tokens from budgets where level = 2") == (0, 0, 0)
    await check_books(db)


async def test_an_event_without_hold_is_booked_where_its_message_says(db: Database) -> None:
    thread = uuid4()
    message = await handled_message(db, thread, agent="writer")
    call = uuid4()
    await book(db, used(message, call), used(message, call))
    await book(db, used(message, call))
    assert await numbers(db, "select thread_id, agent_id, kind from usage_events") == (thread, "writer", "measured")
    assert (await one_reply(db, ask(message, call=call))).state == "denied"
    await check_books(db)


async def test_a_reset_zeroes_the_sums_and_a_late_event_does_not_undo_it(db: Database) -> None:
    message = await handled_message(db)
    early, late = ask(message), ask(message)
    await book(db, early, late)
    await book(db, used(message, early.call_id))
    async with db.begin() as connection:
        await reset_usage(connection, actor="test")
        assert (await totals(connection)).total_tokens == 0
    await book(db, used(message, late.call_id))
    without_hold = used(message, uuid4(), at=datetime.now(UTC) - timedelta(hours=1))
    await book(db, without_hold)
    async with db.begin() as connection:
        assert (await totals(connection)).total_tokens == 0
    fresh = ask(message)
    await book(db, fresh)
    await book(db, used(message, fresh.call_id))
    async with db.begin() as connection:
        assert (await totals(connection)).total_tokens == 15
        assert (await overview(connection)).by_agent["greeter"].requests == 1
    assert await numbers(db, "select prompt_tokens + completion_tokens from budgets where level = 2") == (60,)
    await check_books(db)


async def test_two_booked_at_the_same_time_from_different_threads_count_once(db: Database) -> None:
    one, other, call = await handled_message(db), await handled_message(db), uuid4()
    await retried(db, [[used(one, call)], [used(other, call)]] * 5)
    assert await numbers(db, "select count(*) from usage_events") == (1,)
    await check_books(db)


async def retried(db: Database, batches: Sequence[Sequence[LedgerMessage]], rules: Rules = RULES) -> list[Changes]:
    """All batches at once, each again after a conflict, as the service does."""

    async def one(batch: Sequence[LedgerMessage]) -> Changes:
        while True:
            try:
                return await books.book(db, batch, rules=rules, pricing=PRICING)
            except books.Conflict:
                continue

    return await asyncio.gather(*(one(batch) for batch in batches))


async def granted(db: Database, *requests: HoldRequest, limit: int = LIMIT) -> list[datetime]:
    """When each of these holds was granted."""
    replies = (await book(db, *requests, limit=limit)).replies
    return [at for position in range(len(requests)) if (at := replies[position].granted_at) is not None]


async def test_an_event_settles_the_hold_that_it_names_and_tells_where(db: Database) -> None:
    thread = uuid4()
    message = await handled_message(db, thread, agent="planner")
    request = ask(message, prompt=900, completion=100)
    (at,) = await granted(db, request)
    event = used(message, request.call_id, prompt=700, completion=60, at=at)
    changes = await book(db, event)
    (booking,) = changes.settled
    assert (booking.call_id, booking.thread_id, booking.agent_id) == (request.call_id, thread, "planner")
    assert (booking.latency_us, booking.granted_at) == (12_500, at)
    assert [(crossing.threshold, crossing.budget.spent) for crossing in changes.crossings] == [(75, 760)]
    row = await numbers(
        db, "select message_id, kind, price_id is not null, prompt_tokens, completion_tokens, cost from usage_events"
    )
    assert row == (message, "measured", True, 700, 60, booking.cost)
    assert await numbers(db, "select count(*) from holds") == (0,)
    again = await book(db, event)
    assert (again.settled, again.crossings, again.moved, again.booked) == ([], [], {}, {})
    await check_books(db)


async def test_what_settles_grants_and_releases_shares_a_batch(db: Database) -> None:
    """Holds are settled first: what they free can be granted in the same batch."""
    message, other = await handled_message(db), await handled_message(db)
    first, second, third = ask(message, prompt=900, completion=0), ask(other), ask(other)
    at, twice, _ = await granted(db, first, second, third)
    await book(db, used(other, second.call_id, at=twice))
    asked, refused = ask(message, prompt=950, completion=0), ask(other, prompt=990)
    changes = await book(
        db,
        HoldRelease(call_id=third.call_id),
        refused,
        used(other, second.call_id, at=twice),
        asked,
        used(message, first.call_id, prompt=10, completion=0, at=at),
    )
    assert {position: reply.state for position, reply in changes.replies.items()} == {1: "denied", 3: "granted"}
    assert (len(changes.settled), list(changes.moved)) == (1, [third.call_id])
    assert await numbers(db, "select count(*) from usage_events") == (2,)
    await check_books(db)


async def test_messages_of_one_call_are_taken_in_their_order(db: Database) -> None:
    message = await handled_message(db)
    request = ask(message)
    (at,) = await granted(db, request)
    event = used(message, request.call_id, at=at)
    changes = await book(db, request, event, request, event)
    assert [changes.replies[position].state for position in (0, 2)] == ["granted", "denied"]
    assert await numbers(db, "select count(*) from usage_events") == (1,)
    await check_books(db)


@pytest.mark.parametrize("odd", ["without hold", "expired", "unknown"])
async def test_one_unusual_event_does_not_change_what_the_others_do(db: Database, odd: str) -> None:
    message = await handled_message(db)
    usual, overdue = ask(message), ask(message)
    at, late = await granted(db, usual, overdue)
    async with db.begin() as connection:
        await connection.execute(
            text("update holds set expires_at = now() - interval '1 second' where call_id = :id"),
            {"id": overdue.call_id},
        )
    await books.sweep(db, rules=RULES, pricing=PRICING)
    unusual = {
        "without hold": used(message, uuid4()),
        "expired": used(message, overdue.call_id, at=late),
        "unknown": used(uuid4(), uuid4()),
    }[odd]
    changes = await book(db, unusual, used(message, usual.call_id, at=at))
    assert [position for position, _ in changes.refused] == ([0] if odd == "unknown" else [])
    assert await numbers(db, "select count(*) from usage_events where kind = 'measured'") == (1 + (odd != "unknown"),)
    await check_books(db)


async def test_the_statement_and_the_decisions_book_the_same(db: Database) -> None:
    """An event whose time is not the hold's is decided; the hold's time counts for both."""
    chance = random.Random(3)
    sums = []
    for off in (timedelta(), timedelta(microseconds=1)):
        chance.seed(3)
        thread = uuid4()
        message = await handled_message(db, thread)
        requests = [ask(message, prompt=chance.randrange(100), completion=chance.randrange(100)) for _ in range(50)]
        times = await granted(db, *requests, limit=10_000)
        events = [
            used(message, request.call_id, prompt=chance.randrange(150), completion=chance.randrange(90), at=at + off)
            for request, at in zip(requests, times, strict=True)
        ]
        changes = await book(db, *events)
        assert len(changes.settled or changes.booked) == 50
        assert bool(changes.settled) == (off == timedelta())
        crossed = [crossing.threshold for crossing in changes.crossings]
        of_thread = """
            select held, b.prompt_tokens, b.completion_tokens, count(*), sum(u.cost), sum(latency_us), min(kind)
            from budgets b join usage_events u on u.thread_id = b.id where b.id = :id group by b.id
        """
        sums.append((crossed, await numbers(db, of_thread, id=thread)))
    assert sums[0] == sums[1]
    assert await numbers(db, "select count(*) from holds") == (0,)
    assert await numbers(db, "select count(*) from usage_events") == (100,)
    await check_books(db)


SCARCE = Budgets(
    organism=12_000, tags={"team": TagBudgets(5_000, {"red": 900}), "customer": TagBudgets()}, agents={"writer": 700}
)


@pytest.mark.parametrize("budgets", [Budgets(), SCARCE], ids=["threads alone", "all levels"])
async def test_random_batches_from_many_services_keep_the_books(db: Database, budgets: Budgets) -> None:
    await set_limits(db, budgets)
    chance = random.Random(7)
    tags: list[dict[str, str]] = [{}, {"team": "red"}, {"team": "blue"}, {"team": "blue", "customer": "acme"}]
    threads = {uuid4(): tags[number % len(tags)] for number in range(6)}
    handled = [
        await handled_message(db, thread, agent, slot, threads[thread])
        for thread in threads
        for slot, agent in enumerate(("planner", "writer"))
    ]
    calls: list[tuple[UUID, UUID]] = []
    times: dict[UUID, datetime] = {}

    def step() -> LedgerMessage:
        kind = chance.random()
        if kind < 0.45 or not calls:
            request = ask(chance.choice(handled), prompt=chance.randrange(300), completion=chance.randrange(100))
            calls.append((request.message_id, request.call_id))
            return request
        message, call = chance.choice(calls)
        if kind < 0.85:
            tokens = {"prompt": chance.randrange(200), "completion": chance.randrange(100)}
            return used(message, call, at=times.get(call), **tokens)
        return ask(message, call=call) if kind < 0.9 else HoldRelease(call_id=call)

    async def service() -> None:
        for turn in range(25):
            # The limits of agents come later: their budgets begin with what was used before.
            rules = Rules(LIMIT, replace(budgets, agents=budgets.agents if turn > 8 else {}))
            (changes,) = await retried(db, [[step() for _ in range(chance.randrange(1, 20))]], rules)
            times.update((reply.call_id, reply.granted_at) for reply in changes.replies.values() if reply.granted_at)
            await books.sweep(db, rules=RULES, pricing=PRICING)

    async def clock() -> None:
        for _ in range(20):
            await end_holds(db)
            await check_books(db)

    await asyncio.gather(*(service() for _ in range(4)), clock())
    await check_books(db)
    used_levels = {2} | ({0, 1, 3} if budgets.agents else {0, 1})
    assert await numbers(db, "select array_agg(distinct level order by level) from budgets where requests > 0") == (
        sorted(used_levels),
    )


async def test_an_agent_that_gets_a_limit_has_spent_what_it_spent_before(db: Database) -> None:
    thread = uuid4()
    message = await handled_message(db, thread, agent="writer")
    before, open_one, later = ask(message), ask(message), ask(message)
    at, _ = await granted(db, before, open_one)
    await book(db, used(message, before.call_id, at=at))
    rules = Rules(LIMIT, Budgets(agents={"writer": 214}))
    changes = await books.book(db, [later], rules=rules, pricing=PRICING)
    assert changes.replies[0].state == "wait"
    found = "select held, prompt_tokens, completion_tokens, requests, max_tokens from budgets where level = 3"
    # What waits needs no budget of its own: its node stays, with what was there before.
    assert await numbers(db, found) == (100, 10, 5, 1, 214)
    await check_books(db)


async def test_limits_follow_the_configuration_except_those_of_threads(db: Database) -> None:
    message = await handled_message(db, agent="writer", tags={"team": "red"})
    rules = Rules(LIMIT, SCARCE)
    await set_limits(db, SCARCE)
    await books.book(db, [ask(message)], rules=rules, pricing=PRICING)
    limits = "select string_agg(max_tokens::text, ' ' order by level) from budgets"
    assert await numbers(db, limits) == ("12000 900 1000 700",)
    await set_limits(db, Budgets(organism=5, tags={"team": TagBudgets(6)}))
    assert await numbers(db, limits) == (f"5 6 1000 {UNLIMITED}",)
