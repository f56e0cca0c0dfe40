"""The pool: one error for a database that is gone, and a new connection when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from tests.support.postgres_server import PostgresServer
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.storage.database import Database


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.create()
    server.start()
    yield server
    server.close()


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[Database]:
    database = Database.connect(server.url(), application_name="room", command_timeout=1.0)
    yield database
    await database.close()


async def test_over_a_socket(server: PostgresServer) -> None:
    database = Database.connect(server.socket_url(), application_name="by socket")
    async with database.begin() as connection:
        found = await connection.execute(text("select inet_server_addr(), current_setting('application_name')"))
        assert found.one() == (None, "by socket")
    await database.close()


async def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("create table if not exists t (i int primary key)"))

    async def fail_at_the_second() -> None:
        async with database.begin() as connection:
            await connection.execute(text("insert into t values (1)"))
            await connection.execute(text("insert into t values (1)"))

    with pytest.raises(IntegrityError):
        await fail_at_the_second()
    async with database.begin() as connection:
        assert await connection.scalar(text("select count(*) from t")) == 0


async def test_a_wrong_statement_is_not_called_unavailable(database: Database) -> None:
    with pytest.raises(ProgrammingError):
        async with database.begin() as connection:
            await connection.execute(text("select nothing from nowhere"))


@pytest.mark.parametrize("crash", [False, True])
async def test_reconnects_after_a_restart(server: PostgresServer, database: Database, crash: bool) -> None:
    await database.ping()
    (server.kill if crash else server.stop)()
    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        await database.ping()
    server.start()
    await database.ping()


async def test_a_session_ended_inside_a_transaction_is_unavailable(database: Database) -> None:
    async def end_the_session() -> None:
        async with database.begin() as connection:
            pid = await connection.scalar(text("select pg_backend_pid()"))
            async with database.begin() as other:
                await other.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})
            await connection.execute(text("select 1"))

    with pytest.raises(DatabaseUnavailable):
        await end_the_session()
    await database.ping()


async def test_a_statement_that_hangs_ends(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="took too long"):
        async with database.begin() as connection:
            await connection.execute(text("select pg_sleep(600)"))
    await database.ping()


@pytest.mark.parametrize(
    "state",
    ["53100", "53200", "53300", "57014", "57P01", "57P03", "58030", "25006", "08006", "25P03"],
)
async def test_what_says_nothing_about_the_statement_is_unavailable(database: Database, state: str) -> None:
    """A full disk, no memory, no connections, a cancelled statement, a shutdown, a recovery, a bad disk, a standby."""
    with pytest.raises(DatabaseUnavailable):
        async with database.begin() as connection:
            await connection.execute(text(f"do $$ begin raise exception using errcode = '{state}'; end $$"))
    await database.ping()


@pytest.mark.parametrize("state", ["22003", "23514", "40001", "42P01", "55P03", "P0001"])
async def test_what_is_about_the_statement_is_not(database: Database, state: str) -> None:
    with pytest.raises(DBAPIError):
        async with database.begin() as connection:
            await connection.execute(text(f"do $$ begin raise exception using errcode = '{state}'; end $$"))


async def test_a_statement_timeout_of_the_servers_own_is_unavailable(database: Database) -> None:
    async def too_slow() -> None:
        async with database.begin() as connection:
            await connection.execute(text("set local statement_timeout = '50ms'"))
            await connection.execute(text("select pg_sleep(600)"))

    with pytest.raises(DatabaseUnavailable):
        await too_slow()
    await database.ping()


async def test_who_cannot_wait_gives_the_whole_transaction_up(server: PostgresServer) -> None:
    database = Database.connect(server.url(), pool_size=1, max_overflow=0)

    async def many_quick_statements() -> None:
        async with database.within(0.3).begin() as connection:
            await connection.execute(text("create table never (i int)"))
            while True:
                await connection.execute(text("select pg_sleep(0.05)"))

    with pytest.raises(DatabaseUnavailable, match="took too long"):
        await many_quick_statements()
    async with database.begin() as connection:
        assert await connection.scalar(text("select to_regclass('never')")) is None
    await database.close()


async def test_a_frozen_server_is_unavailable_in_time_and_can_be_left(server: PostgresServer) -> None:
    database = Database.connect(server.url(), pool_size=2, max_overflow=0, connect_timeout=1.0)
    await asyncio.gather(*(database.ping() for _ in range(2)))
    server.suspend()
    try:
        async with asyncio.timeout(15.0):
            pings = [database.within(1.0).ping() for _ in range(10)]
            outcomes = await asyncio.gather(*pings, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
            await database.close()
    finally:
        server.resume()
    again = Database.connect(server.url())
    await again.ping()
    await again.close()


async def test_a_pool_in_use_says_so(server: PostgresServer) -> None:
    database = Database.connect(server.url(), pool_size=1, max_overflow=0, connect_timeout=0.2)
    async with database.begin():
        with pytest.raises(DatabaseUnavailable):
            await database.ping()
    await database.ping()
    await database.close()


async def test_a_cancelled_transaction_changes_nothing_and_frees_its_connection(server: PostgresServer) -> None:
    database = Database.connect(server.url(), pool_size=1, max_overflow=0)
    async with database.begin() as connection:
        await connection.execute(text("create table if not exists c (i int)"))
    entered = asyncio.Event()

    async def never_ending() -> None:
        async with database.begin() as connection:
            await connection.execute(text("insert into c values (1)"))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(never_ending())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.begin() as connection:
        assert await connection.scalar(text("select count(*) from c")) == 0
    await database.close()


async def test_wrong_password_and_unknown_database_say_what_is_wrong(server: PostgresServer) -> None:
    for url, reason in [
        (server.url().replace(server.password, "wrong"), "password authentication failed"),
        (server.url("no_such_database"), "does not exist"),
    ]:
        database = Database.connect(url)
        with pytest.raises(DatabaseUnavailable, match=reason) as caught:
            await database.ping()
        assert server.password not in str(caught.value)
        await database.close()
