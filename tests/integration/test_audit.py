"""Closing the books: clean at any instant, and every planted error is found by the check that is for it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, ask, handled_message, used
from xml_pipeline.audit.closing import CHECKS, close_books
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.message_bus.messages import HoldRelease
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.storage.database import Database

RULES = Rules(10_000, Budgets(agents={"writer": 5000}))
# What is planted, and the checks that have to find it; no other may.
PLANTED = {
    "a budget holds one token too many": ("update budgets set held = held + 1 where level = 2", {"held"}),
    "the organism has spent too little": (
        "update budgets set prompt_tokens = prompt_tokens - 1 where level = 0",
        {"spent"},
    ),
    "an agent's budget costs a little more": ("update budgets set cost = cost + 1e-9 where level = 3", {"spent"}),
    "an hour is missing": ("delete from usage_rollups where grain = 'hour'", {"usage-rollups"}),
    "a day costs a little more": (
        "update usage_rollups set cost = cost + 1e-9 where grain = 'day'",
        {"usage-rollups"},
    ),
    "a tag counts twice": ("update tag_rollups set requests = requests * 2", {"tag-rollups"}),
    "a latency is in the next bucket": ("update latency_rollups set bucket = bucket + 1", {"latency-rollups"}),
    "an event is gone": (
        "delete from usage_events where kind = 'measured'",
        {"spent", "usage-rollups", "tag-rollups", "latency-rollups"},
    ),
    "an event is there twice": (
        """insert into usage_events select call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
               completion_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_prompt_tokens,
               audio_completion_tokens, image_prompt_tokens, image_completion_tokens, latency_us, cost, uncached_cost,
               price_id, kind, period, granted_at + interval '1 microsecond', booked_at
           from usage_events where kind = 'measured'""",
        {"one-booking", "spent", "usage-rollups", "tag-rollups", "latency-rollups"},
    ),
    "a call that is booked holds on": (
        """insert into holds select call_id, message_id, thread_id, agent_id, model, provider, 0, 0, 'held', period,
               granted_at, granted_at + interval '1 minute' from usage_events where kind = 'measured'""",
        {"holds-of-booked-calls"},
    ),
    "an expired hold is forgotten": ("delete from holds where state = 'expired'", {"expired-holds"}),
    "an event is of another thread's message": (
        "update usage_events set message_id = gen_random_uuid() where kind = 'measured'",
        {"messages-of-events"},
    ),
    "a price is gone": ("delete from prices", {"prices"}),
    "a limit was raised, and no top-up says so": ("update budgets set topped_up = 5 where level = 2", {"top-ups"}),
    "a thread lies below another tag": (
        """update threads set tags = '{"team": "red"}' where tags <> '{}'""",
        {"paths", "held", "spent", "tag-rollups"},
    ),
    "a thread counts what is not open": ("update threads set open = open + 1", {"open-messages"}),
}


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


async def _keep_books(db: Database) -> None:
    """A thread with a tag and an agent with a limit: calls that were measured, expired, released, and are open."""
    message = await handled_message(db, uuid4(), agent="writer", tags={"team": "blue"})
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))
    requests = [ask(message) for _ in range(4)]
    replies = (await books.book(db, requests, rules=RULES, pricing=PRICING)).replies
    event = used(message, requests[0].call_id, at=replies[0].granted_at)
    await books.book(db, [event, HoldRelease(call_id=requests[1].call_id)], rules=RULES, pricing=PRICING)
    async with db.begin() as connection:
        overdue = text("update holds set expires_at = now() - interval '1 second' where call_id = :id")
        await connection.execute(overdue, {"id": requests[2].call_id})
    await books.sweep(db, rules=RULES, pricing=PRICING)


async def _found(db: Database) -> set[str]:
    return {finding.check.name for finding in (await close_books(db)).findings if finding.count}


async def test_nothing_is_clean(db: Database) -> None:
    assert (await close_books(db)).clean


async def test_what_is_under_way_is_pending(db: Database) -> None:
    await _keep_books(db)
    audit = await close_books(db)
    assert audit.clean, audit.findings
    assert (audit.pending.open_holds, audit.pending.held_tokens, audit.pending.overspent_budgets) == (1, 100, 0)


@pytest.mark.parametrize("error", PLANTED)
async def test_a_planted_error_is_found_by_its_check(db: Database, error: str) -> None:
    await _keep_books(db)
    statement, checks = PLANTED[error]
    async with db.begin() as connection:
        assert (await connection.execute(text(statement))).rowcount
    assert await _found(db) == checks


def test_every_check_of_the_ledger_has_an_error_that_it_finds() -> None:
    unplanted = {"archived-months", "open-calls"}
    assert {check.name for check in CHECKS} - unplanted == set().union(*(checks for _, checks in PLANTED.values()))


async def test_the_books_are_clean_at_any_instant(db: Database) -> None:
    """Services book while they are closed, again and again."""
    messages = [await handled_message(db, agent="writer", tags={"team": name}) for name in ("blue", "red")]
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))

    async def service() -> None:
        for number in range(60):
            request = ask(messages[number % 2])
            (reply,) = (await _again(db, request)).replies.values()
            await _again(db, used(request.message_id, request.call_id, at=reply.granted_at))

    services = asyncio.gather(*(service() for _ in range(3)))
    looked = 0
    while not services.done():
        audit = await close_books(db)
        assert audit.clean, [finding for finding in audit.findings if finding.count]
        looked += 1
        await asyncio.sleep(0)
    await services
    assert looked > 3


async def _again(db: Database, message: LedgerMessage) -> Changes:
    while True:
        try:
            return await books.book(db, [message], rules=Rules(10**9), pricing=PRICING)
        except books.Conflict:
            continue


@pytest.mark.parametrize(("error", "status"), [(None, 0), ("a day costs a little more", 1)])
async def test_the_command_needs_the_database_alone(
    db: Database, database_url: str, error: str | None, status: int
) -> None:
    await _keep_books(db)
    if error is not None:
        async with db.begin() as connection:
            await connection.execute(text(PLANTED[error][0]))
    command = [sys.executable, "-m", "xml_pipeline", "audit", "--json"]
    env = {**os.environ, "ORGANISM_DATABASE_URL": database_url}
    run = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == status, run.stderr
    said = json.loads(run.stdout)
    assert said["clean"] is (status == 0)
    assert {check["name"] for check in said["checks"] if check["differences"]} == (
        PLANTED[error][1] if error else set()
    )
