"""How a batch of usage is settled: by the keys of its holds, in its turn, and never half."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from tests.chaos.load import until
from tests.integration.ledger_support import PRICING, ask, check_books, handled_message, numbers, used
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.ledger.settling import measure
from xml_pipeline.message_bus.messages import HoldRelease, HoldRequest
from xml_pipeline.storage import ledger, ledger_settle
from xml_pipeline.storage.database import Database

RULES = Rules(10**9)
OPEN_HOLDS = 20_000
_MANY = """
insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion, state,
    period, granted_at, expires_at)
select gen_random_uuid(), message_id, thread_id, agent_id, model, provider, 0, 0, 'held', period, granted_at, expires_at
from holds cross join generate_series(1, :count) limit :count
"""


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=4)
    yield database
    await database.close()


async def granted(db: Database, *requests: HoldRequest) -> list[datetime]:
    replies = (await books.book(db, requests, rules=RULES, pricing=PRICING)).replies
    return [at for position in range(len(requests)) if (at := replies[position].granted_at) is not None]


@pytest.mark.parametrize("known", [True, False], ids=["counted", "counted when there were few"])
async def test_a_batch_looks_at_its_own_holds_alone(db: Database, known: bool) -> None:
    message = await handled_message(db)
    requests = [ask(message) for _ in range(200)]
    times = await granted(db, *requests)
    events = [used(message, request.call_id, at=at) for request, at in zip(requests, times, strict=True)]
    async with db.begin() as connection:
        for statement in ("analyze holds", _MANY) if not known else (_MANY, "analyze holds"):
            await connection.execute(text(statement), {"count": OPEN_HOLDS} if statement is _MANY else {})
    async with db.begin() as connection:
        await ledger.plan_by_keys(connection)
        columns = ledger_settle.settling_columns([measure(event, PRICING, {}) for event in events])
        explained = text(f"explain (analyze) {ledger_settle._SETTLE.text}")
        plan = [row[0] for row in await connection.execute(explained, {**columns, "percent": 75})]
    looks = [line for line in plan if re.search(r"Scan.* on holds", line)]
    assert [re.sub(r" on holds.*", "", line).strip(" ->") for line in looks] == [
        "Index Scan using pk_holds",
        "Tid Scan",
    ]
    assert "loops=200" in looks[0]
    assert await numbers(db, "select count(*) from holds") == (OPEN_HOLDS,)


async def test_a_hold_that_goes_meanwhile_is_a_conflict_and_nothing_is_booked(db: Database, database_url: str) -> None:
    message = await handled_message(db)
    stays, goes = ask(message), ask(message)
    times = await granted(db, stays, goes)
    events = [used(message, request.call_id, at=at) for request, at in zip((stays, goes), times, strict=True)]
    rude = await asyncpg.connect(database_url)
    try:
        deleting = rude.transaction()
        await deleting.start()
        await rude.execute("delete from holds where call_id = $1", goes.call_id)
        settling = asyncio.ensure_future(books.book(db, events, rules=RULES, pricing=PRICING))
        await until(lambda: _waits(rude))
        await deleting.commit()
        with pytest.raises(books.Conflict):
            await settling
    finally:
        await rude.close()
    assert await numbers(db, "select count(*) from usage_events") == (0,)
    assert await numbers(db, "select held from budgets where level = 2") == (200,)


async def _waits(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    waiting = """
        select exists (select from pg_locks where not granted and pid in (
            select pid from pg_stat_activity where datname = current_database()))
    """
    return bool(await connection.fetchval(waiting))


async def test_batches_that_are_prepared_at_once_keep_their_order(db: Database) -> None:
    """A release that is booked before its request would leave a hold that nobody settles."""
    message = await handled_message(db)
    turn = asyncio.Lock()

    async def book(message: HoldRequest | HoldRelease) -> UUID:
        await books.book(db, [message], rules=RULES, pricing=PRICING, turn=turn)
        return message.call_id

    requests = [ask(message) for _ in range(10)]
    both = [one for request in requests for one in (request, HoldRelease(call_id=request.call_id))]
    await asyncio.gather(*map(book, both))
    assert await numbers(db, "select count(*) from holds where state = 'held'") == (0,)
    await check_books(db)
