"""Closing the books: what is right is clean, and every planted error is found by the check that is for it."""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import text

from tests.chaos.run import audited
from tests.integration.ledger_support import MODEL, PRICING, ask, handled_message, used
from tests.support.postgres import Databases
from xml_pipeline.audit.closing import CHECKS, SHOWN, close_books, recompute
from xml_pipeline.audit.model import Audit
from xml_pipeline.audit.thread_checks import THREAD_CHECKS
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.message_bus.messages import HoldRelease
from xml_pipeline.organism.budgets import Budgets, Webhook
from xml_pipeline.organism.model import Price
from xml_pipeline.storage.budget_tree import set_limits
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import reset_usage
from xml_pipeline.storage.top_ups import NewBudgets, TopUp, TopUpAnswer, top_up

RULES = Rules(10_000, Budgets(agents={"writer": 5000}, webhook=Webhook("http://nobody.invalid/", "SECRET")))
_EVENT_SUMS = {"spent", "usage-rollups", "tag-rollups", "latency-rollups"}
_COPIED = """call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
    cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_prompt_tokens, audio_completion_tokens,
    image_prompt_tokens, image_completion_tokens, latency_us, cost, uncached_cost, price_id, kind, period"""
# Of the tagged thread there is one measured call.
_THE_EVENT = "kind = 'measured' and agent_id = 'writer'"

# What is planted, and the checks that have to find it; no other may.
PLANTED = {
    "a thread holds one token too many": (
        "update budgets set held = held + 1 where level = 2 and held > 0",
        {"held"},
    ),
    "a hold that was granted is not counted by a tag": ("update budgets set held = 0 where level = 1", {"held"}),
    "the organism has spent too little": (
        "update budgets set prompt_tokens = prompt_tokens - 1 where level = 0",
        {"spent"},
    ),
    "an agent's budget costs a little more": ("update budgets set cost = cost + 1e-9 where level = 3", {"spent"}),
    "a request of a tag is not counted": ("update budgets set requests = requests - 1 where level = 1", {"spent"}),
    "an hour is missing": ("delete from usage_rollups where grain = 'hour'", {"usage-rollups"}),
    "an hour is there that nobody used": (
        """insert into usage_rollups (period, grain, start, agent_id, model, provider, requests)
           values (1, 'hour', '2026-01-01 00:00+00', 'writer', 'm', 'p', 1)""",
        {"usage-rollups"},
    ),
    "a day costs a little more": ("update usage_rollups set cost = cost + 1e-9 where grain = 'day'", {"usage-rollups"}),
    "an hour has other reasoning": (
        "update usage_rollups set reasoning_tokens = reasoning_tokens + 1 where grain = 'hour'",
        {"usage-rollups"},
    ),
    "a tag counts twice": ("update tag_rollups set requests = requests * 2", {"tag-rollups"}),
    "a latency is in the next bucket": ("update latency_rollups set bucket = bucket + 1", {"latency-rollups"}),
    "an event is gone": (f"delete from usage_events where {_THE_EVENT}", _EVENT_SUMS),
    "an event is there twice": (
        f"""insert into usage_events ({_COPIED}, granted_at)
            select {_COPIED}, granted_at + interval '1 microsecond' from usage_events where {_THE_EVENT}""",
        {"one-booking", *_EVENT_SUMS},
    ),
    "an event is there twice, in another month": (
        f"""insert into usage_events ({_COPIED}, granted_at)
            select {_COPIED}, granted_at + interval '1 month' from usage_events where {_THE_EVENT}""",
        {"one-booking", *_EVENT_SUMS},
    ),
    "a call that is booked holds on": (
        f"""insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion,
                state, period, granted_at, expires_at)
            select call_id, message_id, thread_id, agent_id, model, provider, 0, 0, 'held', period, granted_at,
                granted_at + interval '1 minute' from usage_events where {_THE_EVENT}""",
        {"holds-of-booked-calls"},
    ),
    "an expired hold is forgotten": ("delete from holds where state = 'expired'", {"expired-holds"}),
    "an expired hold was larger": (
        "update holds set prompt_bound = prompt_bound + 1 where state = 'expired'",
        {"expired-holds"},
    ),
    "a released hold is said to have expired": (
        "update holds set state = 'expired' where state = 'released'",
        {"expired-holds"},
    ),
    "an event is of no message": (
        f"update usage_events set message_id = gen_random_uuid() where {_THE_EVENT}",
        {"messages-of-events"},
    ),
    "an event is of another agent": (
        f"update usage_events set agent_id = 'thief' where {_THE_EVENT}",
        {"messages-of-events", "spent", "usage-rollups"},
    ),
    "a hold is of another agent": (
        "update holds set agent_id = 'thief' where state = 'released'",
        {"messages-of-holds"},
    ),
    "a price dangles": ("update usage_events set price_id = price_id + 1 where price_id is not null", {"prices"}),
    "a call was charged by other rates": ("""update prices set rates = rates || '{"output": "16"}'""", {"costs"}),
    "a call of another period": (
        f"update usage_events set period = 9 where {_THE_EVENT}",
        {"periods", "usage-rollups", "tag-rollups"},
    ),
    "a limit was raised, and no top-up says so": ("update budgets set topped_up = 5 where level = 2", {"top-ups"}),
    "a top-up never arrived": (
        """insert into top_ups (id, thread_id, tokens, request_hash, actor)
           select gen_random_uuid(), id, 7, '', 'me' from budgets where level = 2 and cardinality(ancestors) > 1""",
        {"top-ups"},
    ),
    "a threshold never fired": ("update budgets set fired = 0 where fired = 100", {"thresholds"}),
    "a threshold fired twice": (
        """insert into webhook_deliveries (id, budget_id, threshold, body)
           select gen_random_uuid(), budget_id, threshold, body from webhook_deliveries where threshold = 90""",
        {"thresholds"},
    ),
    "a thread lies beside its tag": ("update budgets set ancestors = ancestors[1:1] where level = 2", {"paths"}),
    "an agent lies below another thread": (
        "update budgets set ancestors = ancestors[1:2] || gen_random_uuid() where level = 3",
        {"paths"},
    ),
    "a thread has another tag than its budget": (
        """update threads set tags = '{"team": "red"}' where tags <> '{}'""",
        {"paths", "held", "spent", "tag-rollups"},
    ),
    "a thread's budget is gone": (
        "delete from budgets where level = 2 and cardinality(ancestors) > 1",
        {"paths", "held", "spent"},
    ),
    "a month's file has another number of events": (
        "insert into usage_archives (month, events, file, sha256) values ('2020-01-01', 1, 'x', 'x')",
        {"archives"},
    ),
}
# Planted in archived months, and in what a router has done, by other tests.
ELSEWHERE = {"archived-months", "archived-tags", "archived-days", "archived-tag-days"} | {
    check.name for check in THREAD_CHECKS
}


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


@pytest.fixture(scope="module")
def kept(postgres: Databases) -> Iterator[str]:
    """A database with books of every kind, for tests that leave it as it is."""
    url = postgres.create_database()

    async def keep() -> None:
        db = Database.connect(url)
        await _keep_books(db)
        await _require_clean(db)
        await db.close()

    asyncio.run(keep())
    yield url
    postgres.drop(url)


async def _book(db: Database, messages: Sequence[LedgerMessage]) -> Changes:
    return await books.book(db, messages, rules=RULES, pricing=PRICING)


async def _message(db: Database, agent: str, **tags: str) -> UUID:
    message = await handled_message(db, uuid4(), agent=agent, tags=tags)
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))
    return message


async def _keep_books(db: Database) -> None:
    """A thread with a tag and an agent with a limit: calls that were measured, expired, released, and are open.

    Another thread has nothing left.
    """
    message = await _message(db, "writer", team="blue")
    requests = [ask(message) for _ in range(4)]
    replies = (await _book(db, requests)).replies
    event = used(message, requests[0].call_id, at=replies[0].granted_at)
    await _book(db, [event, HoldRelease(call_id=requests[1].call_id)])
    async with db.begin() as connection:
        overdue = text("update holds set expires_at = now() - interval '1 second' where call_id = :id")
        await connection.execute(overdue, {"id": requests[2].call_id})
    await books.sweep(db, rules=RULES, pricing=PRICING)
    await _spend(db, 9_000, 1_000)


async def _spend(db: Database, prompt: int, completion: int) -> UUID:
    """A call that no hold was asked for; its thread."""
    message = await _message(db, "greeter")
    await _book(db, [used(message, uuid4(), prompt=prompt, completion=completion)])
    async with db.begin() as connection:
        found = await connection.execute(text("select thread_id from messages where id = :id"), {"id": message})
        thread: UUID = found.scalar_one()
    return thread


async def _plant(db: Database, statement: str) -> None:
    async with db.begin() as connection:
        assert (await connection.execute(text(statement))).rowcount


def _found(audit: Audit) -> set[str]:
    return {finding.check.name for finding in audit.findings if finding.count}


async def _require_clean(db: Database) -> Audit:
    audit = await close_books(db)
    assert audit.clean, audit.differences
    return audit


async def test_nothing_is_clean(db: Database) -> None:
    await _require_clean(db)


async def test_what_is_under_way_is_pending(db: Database) -> None:
    await _keep_books(db)
    pending = (await _require_clean(db)).pending
    assert (pending.open_holds, pending.held_tokens, pending.overdue_holds) == (1, 100, 0)
    async with db.begin() as connection:
        await connection.execute(text("update holds set expires_at = now() where state = 'held'"))
        await connection.execute(text("update messages set state = 'ready', parked_for = 700 where to_id = 'greeter'"))
    pending = (await _require_clean(db)).pending
    assert (pending.overdue_holds, pending.parked_messages, pending.parked_tokens) == (1, 1, 700)


@pytest.mark.parametrize("error", PLANTED)
async def test_a_planted_error_is_found_by_its_check(kept: str, error: str) -> None:
    """It is taken back in the end, for the next."""
    statement, checks = PLANTED[error]
    db = Database.connect(kept, pool_size=1)
    try:
        async with db.begin() as connection:
            assert (await recompute(connection)).clean
            assert (await connection.execute(text(statement))).rowcount
            assert _found(await recompute(connection)) == checks
            await connection.rollback()
    finally:
        await db.close()


def test_every_check_has_an_error_that_it_finds() -> None:
    assert {check.name for check in CHECKS} - ELSEWHERE == set().union(*(checks for _, checks in PLANTED.values()))


async def test_what_differs_is_told_with_what_was_expected_and_no_more_than_is_read(db: Database) -> None:
    thread = await _spend(db, 300, 20)
    await _plant(db, "update budgets set prompt_tokens = prompt_tokens + 1 where level = 2")
    (told,) = (await close_books(db)).differences
    assert (told.check, told.key) == ("spent", f"thread {thread}")
    assert told.expected is not None
    assert told.found is not None
    assert (told.expected.split()[:3], told.found.split()[:3]) == (["300", "20", "1"], ["301", "20", "1"])
    for _ in range(SHOWN + 1):
        await _spend(db, 1, 1)
    await _plant(db, "update budgets set prompt_tokens = prompt_tokens + 1 where level = 2")
    audit = await close_books(db)
    assert (audit.count, len(audit.differences)) == (SHOWN + 2, SHOWN)


async def test_a_run_of_chaos_is_told_what_differs(db: Database, database_url: str) -> None:
    thread = await _spend(db, 300, 20)
    assert await audited(database_url) == []
    await _plant(db, "update budgets set held = 1 where level = 2")
    assert await audited(database_url) == [f"audit: held: thread {thread}: 0 expected, 1 found"]


async def test_what_was_overspent_is_listed_and_no_difference(db: Database) -> None:
    thread = await _spend(db, 11_000, 1_000)
    audit = await _require_clean(db)
    assert audit.overspent_count == 1
    assert [(one.name, one.limit, one.spent) for one in audit.overspent] == [(f"thread {thread}", 10_000, 12_000)]
    await set_limits(db, replace(RULES.budgets, organism=5_000))
    assert [one.name for one in (await _require_clean(db)).overspent] == ["organism", f"thread {thread}"]


async def test_top_ups_are_counted_and_what_is_still_exhausted_has_fired(db: Database) -> None:
    thread = await _spend(db, 11_000, 1_000)
    for tokens in (500, 5_000):
        async with db.begin() as connection:
            wanted = TopUp(uuid4(), thread, tokens, b"", "somebody")
            assert await top_up(connection, wanted, NewBudgets(10_000, RULES.budgets)) is TopUpAnswer.ADDED
        await _require_clean(db)
    await _plant(db, "delete from top_ups where tokens = 500")
    assert _found(await close_books(db)) == {"top-ups"}


async def test_a_late_event_belongs_to_the_period_of_its_grant(db: Database) -> None:
    message = await _message(db, "writer", team="blue")
    request = ask(message)
    (reply,) = (await _book(db, [request])).replies.values()
    async with db.begin() as connection:
        await reset_usage(connection, actor="somebody")
    await _book(db, [used(message, request.call_id, at=reply.granted_at), used(message, uuid4())])
    await _require_clean(db)
    await _plant(db, "update usage_events set granted_at = granted_at - interval '1 day' where period = 2")
    assert "periods" in _found(await close_books(db))


_KINDS = Price(
    MODEL, 2, 8, cache_read=0.2, cache_write=2.5, reasoning=9, audio_prompt=32, audio_completion=64, image_prompt=5
)


@pytest.mark.parametrize("scale", [1, 10])
async def test_the_cost_of_every_kind_of_token_is_recomputed(db: Database, scale: int) -> None:
    """Every combination of kinds, and counts that are more than there is in all."""
    message = await _message(db, "writer")
    kinds = {
        "cache_read_tokens": 300,
        "cache_write_tokens": 200,
        "audio_prompt_tokens": 90,
        "image_prompt_tokens": 50,
        "reasoning_tokens": 70,
        "audio_completion_tokens": 40,
        "image_completion_tokens": 30,
    }
    chosen = [[name for bit, name in enumerate(kinds) if number >> bit & 1] for number in range(2 ** len(kinds))]
    events = [
        used(message, uuid4(), prompt=700, completion=200).model_copy(
            update={name: kinds[name] * scale for name in names}
        )
        for names in chosen
    ]
    await books.book(db, events, rules=Rules(10**9), pricing=Prices([_KINDS]).cost)
    await _require_clean(db)
    await _plant(db, "update usage_events set uncached_cost = uncached_cost + 1e-9 where uncached_cost is not null")
    assert "costs" in _found(await close_books(db))


async def test_prices_of_before_are_not_recomputed(db: Database) -> None:
    await _spend(db, 10, 10)
    await _plant(db, "update prices set rates = '{}', source = 'before'")
    await _require_clean(db)


async def test_old_events_need_no_message_but_a_thread(db: Database) -> None:
    thread = await _spend(db, 10, 10)
    await _plant(db, "update usage_events set message_id = null")
    await _require_clean(db)
    async with db.begin() as connection:
        other = {"other": uuid5(thread, "other")}
        await connection.execute(text("update usage_events set thread_id = :other"), other)
    assert "messages-of-events" in _found(await close_books(db))
