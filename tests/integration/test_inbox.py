"""An inject is accepted once, whichever gateway it comes to, and not into a killed thread."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import text

from xml_pipeline.storage import threads
from xml_pipeline.storage.backlog import Backlog, BacklogLimits, Full
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.inbox import Accepted, Answer, Inject, Refusal, accept


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=8)
    yield database
    await database.close()


def _inject(*, id_: UUID | None = None, thread: UUID | None = None, said: bytes = b"hello") -> Inject:
    id_ = id_ or uuid4()
    return Inject(id_, thread or uuid5(id_, "thread"), "greeter", said, b"<message/>")


async def _accept(database: Database, *injects: Inject, backlog: Backlog | None = None) -> list[Answer]:
    async with database.begin() as connection:
        return await accept(connection, injects, backlog)


async def _counts(database: Database) -> dict[UUID, tuple[int, int]]:
    """What each thread counts as open, and the inbox rows it has."""
    query = text(
        "select t.id, t.open, count(i.id) from threads t left join inbox i on i.thread_id = t.id group by t.id"
    )
    async with database.begin() as connection:
        return {row[0]: (row[1], row[2]) for row in await connection.execute(query)}


async def test_a_new_thread_can_be_read_at_once(database: Database) -> None:
    inject = _inject()
    (answer,) = await _accept(database, inject)
    async with database.begin() as connection:
        thread = await threads.get_thread(connection, inject.thread_id)
    assert thread is not None
    assert answer == Accepted(inject.id, inject.thread_id, created_at=thread.created_at)
    assert (thread.status, thread.participants) == ("active", ("api", "greeter"))
    assert await _counts(database) == {inject.thread_id: (1, 1)}


async def test_the_same_key_gets_the_same_answer(database: Database) -> None:
    first = _inject(thread=uuid4())
    await _accept(database, first)
    again = _inject(id_=first.id, thread=uuid4())
    assert await _accept(database, again, again) == [Accepted(first.id, first.thread_id, repeated=True)] * 2
    assert await _counts(database) == {first.thread_id: (1, 1)}


async def test_the_same_key_with_another_body_is_a_conflict(database: Database) -> None:
    first = _inject()
    other = _inject(id_=first.id, said=b"something else")
    answers = await _accept(database, first, other)
    assert isinstance(answers[0], Accepted)
    assert answers[1] is Refusal.CONFLICT
    assert await _accept(database, other) == [Refusal.CONFLICT]


async def test_one_batch_answers_each_for_itself(database: Database) -> None:
    killed = _inject()
    await _accept(database, killed)
    async with database.begin() as connection:
        await threads.kill_thread(connection, killed.thread_id, actor="test")
    thread = uuid4()
    good, late, second = _inject(thread=thread), _inject(thread=killed.thread_id), _inject(thread=thread)
    answers = await _accept(database, good, late, good, second, killed)
    assert [answer.repeated if isinstance(answer, Accepted) else answer for answer in answers] == [
        False,
        Refusal.KILLED,
        True,
        False,
        True,
    ]
    assert await _counts(database) == {thread: (2, 2), killed.thread_id: (1, 1)}


async def test_a_completed_thread_becomes_active_again(database: Database) -> None:
    inject = _inject()
    await _accept(database, inject)
    async with database.begin() as connection:
        await connection.execute(text("update threads set status = 'completed', open = 0"))
    await _accept(database, _inject(thread=inject.thread_id))
    async with database.begin() as connection:
        thread = await threads.get_thread(connection, inject.thread_id)
    assert thread is not None
    assert thread.status == "active"


async def test_gateways_that_race_with_the_same_keys_accept_each_once(database: Database) -> None:
    chance = random.Random(7)
    keys = [uuid4() for _ in range(40)]
    # Half of the keys name no thread, and each gateway makes one of its own for them: the worst case.
    places = {key: uuid4() if index % 2 else None for index, key in enumerate(keys)}

    async def gateway() -> list[list[Answer]]:
        mine = [_inject(id_=key, thread=places[key] or uuid4()) for key in chance.sample(keys, len(keys))]
        return [await _accept(database, *mine[start : start + 8]) for start in range(0, len(mine), 8)]

    batches = [batch for all_ in await asyncio.gather(*(gateway() for _ in range(6))) for batch in all_]
    answers = [answer for batch in batches for answer in batch if isinstance(answer, Accepted)]
    assert len(answers) == 6 * len(keys)
    assert len({(answer.message_id, answer.thread_id) for answer in answers}) == len(keys)
    assert sum(not answer.repeated for answer in answers) == len(keys)
    assert sum(answer.created_at is not None for answer in answers) == len(keys)
    assert list((await _counts(database)).values()) == [(1, 1)] * len(keys)


async def test_an_inject_that_races_a_kill_is_refused_or_waits_to_be_logged(database: Database) -> None:
    thread = uuid4()
    await _accept(database, _inject(thread=thread))

    async def kill() -> None:
        async with database.begin() as connection:
            await threads.kill_thread(connection, thread, actor="test")

    killing = asyncio.create_task(kill())
    answers = await asyncio.gather(*(_accept(database, _inject(thread=thread)) for _ in range(20)))
    await killing
    accepted = 1 + sum(isinstance(answer, Accepted) for (answer,) in answers)
    async with database.begin() as connection:
        untaken = await connection.scalar(text("select count(*) from inbox where taken_at is null"))
        record = await threads.get_thread(connection, thread)
    assert untaken == accepted
    assert record is not None
    assert (record.status, record.message_count) == ("killed", accepted)
    assert (await _counts(database))[thread][0] == accepted


ROOMY = BacklogLimits(organism=1000, thread=3, listener=1000)


async def test_a_full_thread_takes_no_more_and_a_repeated_key_gets_its_first_answer(database: Database) -> None:
    thread = uuid4()
    first = [_inject(thread=thread) for _ in range(5)]
    answers = await _accept(database, *first, backlog=Backlog(ROOMY, {}))
    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 3 + [False] * 2
    assert answers[3:] == [Full.THREAD] * 2
    elsewhere = _inject()
    again = await _accept(database, first[0], first[4], elsewhere, backlog=Backlog(ROOMY, {}))
    assert again[0] == Accepted(first[0].id, thread, repeated=True)
    assert again[1] is Full.THREAD
    assert isinstance(again[2], Accepted)
    assert await _counts(database) == {thread: (3, 3), elsewhere.thread_id: (1, 1)}


async def test_gateways_that_race_for_one_thread_never_pass_its_limit(database: Database) -> None:
    thread = uuid4()

    async def gateway() -> list[Answer]:
        return [(await _accept(database, _inject(thread=thread), backlog=Backlog(ROOMY, {})))[0] for _ in range(4)]

    answers = [answer for all_ in await asyncio.gather(*(gateway() for _ in range(6))) for answer in all_]
    assert sum(isinstance(answer, Accepted) for answer in answers) == 3
    assert answers.count(Full.THREAD) == 21
    assert await _counts(database) == {thread: (3, 3)}


async def test_what_finds_the_organism_full_leaves_no_thread_behind(database: Database) -> None:
    limits = BacklogLimits(organism=10, thread=10, listener=10)
    answers = await _accept(database, _inject(), _inject(), backlog=Backlog(limits, {"shouter": 9}))
    assert isinstance(answers[0], Accepted)
    assert answers[1] is Full.ORGANISM
    assert len(await _counts(database)) == 1


async def test_a_killed_thread_is_said_to_be_killed_however_full_it_was(database: Database) -> None:
    thread = uuid4()
    await _accept(database, *(_inject(thread=thread) for _ in range(3)), backlog=Backlog(ROOMY, {}))
    async with database.begin() as connection:
        await threads.kill_thread(connection, thread, actor="test")
    assert await _accept(database, _inject(thread=thread), backlog=Backlog(ROOMY, {})) == [Refusal.KILLED]
