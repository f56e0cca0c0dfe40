"""The queue before the commit: bounded, and no batch makes others wait longer than their own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.integration.gateway_support import copied_example
from xml_pipeline.errors import DatabaseUnavailable, Unavailable
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.load import load_organism
from xml_pipeline.server.live.configured import Configured, Current
from xml_pipeline.server.live.injector import Injector
from xml_pipeline.server.live.limits import MOST_WAITING_BYTES
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.inbox import Accepted, Inject

WITHIN = 1.0
METRICS = GatewayMetrics(Metrics(), ())


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def injector(database: Database, tmp_path: Path) -> AsyncIterator[Injector]:
    current = Current(Configured.of(load_organism(copied_example(tmp_path)), 1))
    injector = Injector(database.within(WITHIN), current, METRICS, answer_within=WITHIN)
    running = asyncio.create_task(injector.run())
    yield injector
    running.cancel()
    await asyncio.wait([running])


def inject(size: int = 10, *, thread: UUID | None = None) -> Inject:
    return Inject(uuid4(), thread or uuid4(), "greeter", b"hash", b"x" * size)


async def test_who_waits_longer_than_its_time_is_told_and_is_not_stored_later(
    database: Database, injector: Injector
) -> None:
    held, behind = inject(), inject()
    async with database.begin() as connection:
        # Somebody is about to make the same thread, and takes his time: the batch hangs on that.
        await connection.execute(text("insert into threads (id) values (:id)"), {"id": held.thread_id})
        first = asyncio.create_task(injector.accept(held))
        await asyncio.sleep(0)
        began = time.monotonic()
        second = asyncio.create_task(injector.accept(behind))
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 2
        # Its own time, and some for a busy machine: not that and the other's, one after the other.
        assert time.monotonic() - began < 2 * WITHIN
    answers = await asyncio.gather(injector.accept(inject()), injector.accept(held))
    assert all(isinstance(answer, Accepted) and not answer.repeated for answer in answers)
    async with database.begin() as connection:
        assert await connection.scalar(text("select count(*) from inbox")) == 2


async def test_what_is_too_much_to_wait_is_refused_at_once(injector: Injector, database: Database) -> None:
    held = inject()
    async with database.begin() as connection:
        await connection.execute(text("insert into threads (id) values (:id)"), {"id": held.thread_id})
        hanging = asyncio.create_task(injector.accept(held))
        await asyncio.sleep(0.1)
        size = MOST_WAITING_BYTES // 8
        waiting = [asyncio.create_task(injector.accept(inject(size))) for _ in range(8)]
        await asyncio.sleep(0)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="too many"):
            await injector.accept(inject())
        assert time.monotonic() - began < WITHIN / 2
        for task in (hanging, *waiting):
            task.cancel()
        await asyncio.wait([hanging, *waiting])
    assert isinstance(await injector.accept(inject()), Accepted)


async def test_whoever_waits_when_it_ends_is_told(database: Database, tmp_path: Path) -> None:
    current = Current(Configured.of(load_organism(copied_example(tmp_path)), 1))
    injector = Injector(database, current, METRICS)
    running = asyncio.create_task(injector.run())
    held = inject()
    async with database.begin() as connection:
        await connection.execute(text("insert into threads (id) values (:id)"), {"id": held.thread_id})
        tasks = [asyncio.create_task(injector.accept(held)), asyncio.create_task(injector.accept(inject()))]
        await asyncio.sleep(0.1)
        running.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 2


async def test_a_thread_that_somebody_holds_holds_up_no_other(database: Database, tmp_path: Path) -> None:
    current = Current(Configured.of(load_organism(copied_example(tmp_path)), 1))
    injector = Injector(database.within(10.0), current, METRICS, answer_within=10.0)
    running = asyncio.create_task(injector.run())
    known = inject()
    assert isinstance(await injector.accept(known), Accepted)
    async with database.begin() as connection:
        await connection.execute(text("select from threads where id = :id for update"), {"id": known.thread_id})
        held = [asyncio.create_task(injector.accept(inject(thread=known.thread_id))) for _ in range(3)]
        others = [asyncio.create_task(injector.accept(inject())) for _ in range(20)]
        answers = await asyncio.gather(*others)
        assert all(isinstance(answer, Accepted) for answer in answers)
        outcomes = await asyncio.gather(*held, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    assert isinstance(await injector.accept(inject(thread=known.thread_id)), Accepted)
    running.cancel()
    await asyncio.wait([running])
