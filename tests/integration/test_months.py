"""The months of usage: made ahead, by several at once, beside bookings; what came too early or too late moves in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.integration.ledger_support import numbers
from xml_pipeline.ledger.upkeep import keep_months
from xml_pipeline.storage import partitions
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.partitions import add_month, make_months, month_of, months, next_month, partition_of

NOW = datetime(2031, 11, 15, 12, tzinfo=UTC)
MADE = ["usage_events_2031_11", "usage_events_2031_12", "usage_events_2032_01"]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


async def add_event(connection: AsyncConnection, at: datetime) -> None:
    await connection.execute(
        text(
            """
            insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
                completion_tokens, latency_us, cost, kind, period, granted_at)
            values (:call, :call, :call, 'greeter', 'grok-4.1', 'xai', 10, 5, 12500, 0.25, 'measured', 1, :at)
            """
        ),
        {"call": uuid4(), "at": at},
    )


async def add_events(db: Database, *times: datetime) -> None:
    async with db.begin() as connection:
        for at in times:
            await add_event(connection, at)


async def places(db: Database) -> dict[str, int]:
    """How many events are in which table."""
    async with db.begin() as connection:
        rows = await connection.execute(
            text("select cast(cast(tableoid as regclass) as text), count(*) from usage_events group by 1")
        )
        return {row[0]: row[1] for row in rows}


async def tables(db: Database) -> set[str]:
    async with db.begin() as connection:
        return {partition_of(month) for month in await months(connection)}


async def make(db: Database) -> list[str]:
    return await make_months(db, now=NOW)


def months_from(time: datetime) -> list[str]:
    first = month_of(time)
    return [partition_of(month) for month in (first, next_month(first), next_month(next_month(first)))]


def test_months_are_those_of_utc_and_go_on_over_years() -> None:
    assert month_of(datetime.fromisoformat("2026-05-01T01:00:00+02:00")) == datetime(2026, 4, 1, tzinfo=UTC)
    assert months_from(NOW) == MADE


async def test_this_month_and_the_next_two_are_made_once(db: Database) -> None:
    before = await tables(db)
    assert await make(db) == MADE
    assert await make(db) == []
    assert await tables(db) == before | set(MADE)


async def test_events_are_put_where_they_belong_to_the_microsecond(db: Database) -> None:
    await make(db)
    last, first = datetime(2031, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2031, 12, 1, tzinfo=UTC)
    await add_events(db, last, first, datetime(2033, 1, 1, tzinfo=UTC))
    assert await places(db) == {MADE[0]: 1, MADE[1]: 1, "usage_events_other": 1}


async def test_the_database_in_another_time_zone_makes_the_same_months(db: Database) -> None:
    async with db.begin() as connection:
        await connection.execute(text("set local timezone = 'Pacific/Auckland'"))
        await add_month(connection, month_of(NOW))
    await add_events(db, datetime(2031, 11, 30, 23, 59, tzinfo=UTC))
    assert await places(db) == {MADE[0]: 1}


async def test_events_that_came_before_their_month_move_into_it(db: Database) -> None:
    other = datetime(2031, 10, 31, 23, 59, tzinfo=UTC)
    await add_events(db, NOW, NOW, datetime(2031, 12, 1, tzinfo=UTC), other)
    assert await places(db) == {"usage_events_other": 4}
    before = await numbers(db, "select count(*), sum(cost), sum(prompt_tokens) from usage_events")
    await make(db)
    assert await places(db) == {MADE[0]: 2, MADE[1]: 1, "usage_events_other": 1}
    assert await numbers(db, "select count(*), sum(cost), sum(prompt_tokens) from usage_events") == before


async def test_more_than_is_moved_at_once_stays_until_it_is_asked_for(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MOST_MOVED", 2)
    await add_events(db, NOW, NOW, NOW, datetime(2031, 12, 1, tzinfo=UTC))
    assert await make(db) == MADE[1:]
    assert await places(db) == {"usage_events_other": 3, MADE[1]: 1}
    async with db.begin() as connection:
        assert await add_month(connection, month_of(NOW))
    assert await places(db) == {MADE[0]: 3, MADE[1]: 1}


_SHAPE = """
    select (select string_agg(regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', ''), ';' order by 1) as indexes
            from (select indexrelid, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING', '') as how
                  from pg_index where indrelid = cast(:t as regclass) order by 2) i),
        (select string_agg(pg_get_constraintdef(oid), ';' order by pg_get_constraintdef(oid))
         from pg_constraint where conrelid = cast(:t as regclass)),
        (select string_agg(attname || ' ' || atttypid || ' ' || attnotnull || coalesce(pg_get_expr(adbin, adrelid), ''),
                           ';' order by attnum)
         from pg_attribute left join pg_attrdef on adrelid = attrelid and adnum = attnum
         where attrelid = cast(:t as regclass) and attnum > 0 and not attisdropped)
"""


async def test_a_month_has_the_indexes_and_constraints_of_all(db: Database) -> None:
    await make(db)
    whole = await numbers(db, _SHAPE, t="usage_events")
    assert None not in whole
    assert await numbers(db, _SHAPE, t=MADE[0]) == whole
    # None is a second one beside the one that belongs to the whole.
    alone = """select count(*) from pg_index where indrelid = cast(:t as regclass)
               and not exists (select from pg_inherits where inhrelid = indexrelid)"""
    assert await numbers(db, alone, t=MADE[0]) == (0,)


async def test_many_services_at_once_make_each_month_once(db: Database) -> None:
    made = await asyncio.gather(*(make(db) for _ in range(8)))
    assert sorted(chain.from_iterable(made)) == MADE


async def test_a_long_booking_is_not_waited_for_and_not_held_up(db: Database) -> None:
    """Who makes months gives way, and tries again: one who books waits for half a second at most."""
    async with db.begin() as booking:
        await add_event(booking, NOW)
        with pytest.raises(DBAPIError) as refused:
            await make(db)
        assert getattr(refused.value.orig, "sqlstate", None) == "55P03"
        async with asyncio.timeout(5):
            await add_events(db, NOW)
    assert len(await make(db)) == 3
    assert await places(db) == {MADE[0]: 2}


async def keep_months_of(db: Database) -> None:
    """Again and again, where bookings take too long."""
    while set(MADE) - await tables(db):
        with suppress(DBAPIError):
            await make(db)


async def test_nothing_is_lost_that_is_booked_while_months_are_made(db: Database) -> None:
    """Who books never has to try again."""
    booked = 0

    async def book(times: Sequence[datetime]) -> None:
        nonlocal booked
        for at in times:
            await add_events(db, at)
            booked += 1

    times = [NOW, datetime(2031, 12, 1, tzinfo=UTC)] * 100
    booking = asyncio.gather(*(book(times) for _ in range(3)))
    async with asyncio.timeout(60):
        while booked < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        keeping = asyncio.create_task(keep_months_of(db))
        await booking
        await keeping
    assert await places(db) == {MADE[0]: 300, MADE[1]: 300}


async def test_who_keeps_up_makes_them_at_once_and_tries_again_after_a_failure(db: Database) -> None:
    """By the database's clock; a month's name that is taken is a failure, and stops nothing."""
    (now,) = await numbers(db, "select now()")
    assert isinstance(now, datetime)
    wanted = months_from(now)
    async with db.begin() as connection:
        await connection.execute(text(f"create table {wanted[1]} (id int)"))
    keeping = asyncio.create_task(keep_months(db, every=3600, again=0.01))
    try:
        async with asyncio.timeout(20):
            while wanted[0] not in await tables(db):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert wanted[1] not in await tables(db)
        assert not keeping.done()
        async with db.begin() as connection:
            await connection.execute(text(f"drop table {wanted[1]}"))
        async with asyncio.timeout(20):
            while not set(wanted) <= await tables(db):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        keeping.cancel()
