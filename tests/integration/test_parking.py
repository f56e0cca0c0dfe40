"""Messages that wait for budget: they keep their place, cost no attempt, and go on when there is room on their path."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.integration.routing_stage import Stage, stage, until
from tests.support import routing as given
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.organism.budgets import UNLIMITED, Budgets
from xml_pipeline.organism.model import Organism
from xml_pipeline.storage import listeners, threads
from xml_pipeline.storage.backlog import BacklogLimits, count_backlog
from xml_pipeline.storage.budget_tree import add_agent_budgets, add_thread_budgets, lock_budgets
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_parking import unpark
from xml_pipeline.storage.routing_sweep import orphaned_messages


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=8)
    yield database
    await database.close()


def _organism() -> Organism:
    return given.organism(given.listener("ann", attempts=1), given.listener("bob", attempts=1))


async def _budget(play: Stage, thread: UUID, *, agent: str | None = None) -> None:
    """A thread of 100 tokens, all of them spent; of one agent, too."""
    async with play.db.begin() as connection:
        await add_thread_budgets(connection, [thread], 100, Budgets())
        locked = await lock_budgets(connection, [thread])
        if agent is not None:
            await add_agent_budgets(connection, locked, [(thread, agent)], {agent: 100})
    await play.change("update budgets set prompt_tokens = 60, completion_tokens = 40")


async def _parked(play: Stage) -> list[tuple[int, int]]:
    rows = await play.rows("select parked_for, parks from messages where parked_for is not null order by seq")
    return [tuple(row) for row in rows]


async def test_a_parked_message_goes_on_first_when_there_is_room_and_has_lost_no_attempt(database_url: str) -> None:
    async with stage(database_url, _organism(), routers=2) as play:
        thread = uuid4()
        injected = [await play.inject("ann", thread) for _ in range(2)]
        await _budget(play, thread)
        first = await play.assigned("ann")
        await play.park(first, 30)
        await until(lambda: _parked(play))
        assert (await play.thread_of(injected[0])).status == "active"
        await play.change("update budgets set topped_up = 29 where id = :id", id=thread)
        async with play.db.begin() as connection:
            assert await unpark(connection, limit=10) == ()
        assert await _parked(play) == [(30, 1)]
        await play.change("update budgets set topped_up = 30 where id = :id", id=thread)
        again = await play.assigned("ann")
        assert (again.message_id, again.attempt) == (first.message_id, 2)
        await play.park(again, 31)
        await until(lambda: _parked(play))
        await play.change("update budgets set topped_up = 31 where id = :id", id=thread)
        last = await play.assigned("ann")
        await play.report(last, outcome=Outcome.ERROR)
        (letter,) = await until(lambda: play.rows("select attempts, code from dead_letters"))
        assert tuple(letter) == (1, "handler-failed")
        await play.answer(await play.assigned("ann"))
        await play.ended(injected[0])


@pytest.mark.parametrize("narrow", ["organism", "agent"])
async def test_every_budget_of_the_path_has_to_have_room(database_url: str, narrow: str) -> None:
    async with stage(database_url, _organism()) as play:
        thread = uuid4()
        message = await play.inject("ann", thread)
        await _budget(play, thread, agent="ann")
        await play.change("update budgets set base_tokens = 100")
        await play.park(await play.assigned("ann"), 30)
        await until(lambda: _parked(play))
        level = {"organism": 0, "agent": 3}[narrow]
        await play.change("update budgets set topped_up = 30 where level <> :level", level=level)
        async with play.db.begin() as connection:
            assert await unpark(connection, limit=10) == ()
        await play.change("update budgets set base_tokens = :most where level = :level", most=UNLIMITED, level=level)
        assert (await play.assigned("ann")).message_id == message


async def test_what_is_parked_for_one_agent_holds_up_no_other(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        thread = uuid4()
        message = await play.inject("ann", thread)
        await play.inject("bob", thread)
        await _budget(play, thread)
        await play.park(await play.assigned("ann"), 30)
        await play.answer(await play.assigned("bob"))
        await until(lambda: play.rows("select 1 from messages where to_id = 'api'"))
        assert (await play.thread_of(message)).status == "active"


async def test_a_kill_closes_what_is_parked(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        thread = uuid4()
        await play.inject("ann", thread)
        await _budget(play, thread)
        await play.park(await play.assigned("ann"), 30)
        await until(lambda: _parked(play))
        async with play.db.begin() as connection:
            await threads.kill_thread(connection, thread, actor="test")
        assert not await _parked(play)
        (row,) = await play.rows("select state, outcome from messages where to_id = 'ann'")
        assert tuple(row) == ("closed", "killed")


async def test_what_is_parked_counts_as_the_listeners_backlog_and_is_an_orphan_without_it(database: Database) -> None:
    limits = BacklogLimits(organism=100, thread=100, listener=100)
    async with database.begin() as connection:
        await _many_parked(connection, 3)
        await connection.execute(text("insert into listeners (name, is_agent, retired) values ('ann', true, true)"))
        assert await count_backlog(connection, limits) == {"ann": 3}
        assert len(await orphaned_messages(connection, limit=2)) == 2
        await connection.execute(text("update listeners set retired = false"))
        assert not await orphaned_messages(connection, limit=2)
        assert (await listeners.work(connection))["ann"].queue_depth == 3


async def test_several_routers_let_each_message_go_on_once(database: Database) -> None:
    async with database.begin() as connection:
        await _many_parked(connection, 40)

    async def once() -> int:
        async with database.begin() as connection:
            return len(await unpark(connection, limit=15))

    counts = await asyncio.gather(*(once() for _ in range(8)))
    counts += [await once() for _ in range(3)]
    assert sum(counts) == 40


async def _many_parked(connection: AsyncConnection, count: int) -> None:
    add_threads = "insert into threads (id, open, slots) select gen_random_uuid(), 1, 1 from generate_series(1, :n)"
    await connection.execute(text(add_threads), {"n": count})
    add_messages = """
        insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state, due_at,
            parked_for)
        select gen_random_uuid(), id, 1, 'api', 'ann', 'request', 'x', '', true, 'ready', 'infinity', 10 from threads
    """
    await connection.execute(text(add_messages))
