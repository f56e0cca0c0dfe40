"""Steps of migrations: they can be repeated, give way to others, and are given up when they take too long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.load import until
from tests.support.migrations import add_scripts, add_those_to_come, copied_scripts
from xml_pipeline.errors import DatabaseUnavailable, InvalidInput
from xml_pipeline.storage.schema import current_revision, migrate_database

STEP = """
from xml_pipeline.storage import online

revision, down_revision, branch_labels, depends_on = "step", "HEAD", None, None


def upgrade():
    {0}


def downgrade():
    {1}
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return copied_scripts(tmp_path)


def add_step(scripts: Path, up: str, down: str = "pass") -> None:
    add_scripts(scripts, step=STEP.format(up, down))


async def test_they_wait_for_whoever_writes_and_let_others_pass(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_those_to_come(scripts)
    other = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("lock table calls in row exclusive mode")
        migrating = asyncio.create_task(migrate_database(database_url, scripts=scripts))
        async with asyncio.timeout(60):
            while await other.fetchval("select version_num from alembic_version") != "to_come_2":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for _ in range(40):
            await other.execute("update calls set open = 0", timeout=1)
            await asyncio.sleep(0.05)
        assert not migrating.done()
    await other.close()
    await migrating
    assert await connection.fetchval("select version_num from alembic_version") == "to_come_4"
    assert await connection.fetchval("select count(*) from pg_constraint where conname = 'ck_messages_priority'") == 1


async def test_several_at_once_do_each_step_once(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_those_to_come(scripts)
    await asyncio.gather(*(migrate_database(database_url, scripts=scripts) for _ in range(4)))
    assert await connection.fetchval("select version_num from alembic_version") == "to_come_4"


async def test_an_index_that_was_not_finished_is_made_anew(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_step(scripts, 'online.create_index("ix_new", "messages", "hop")', 'online.drop_index("ix_new")')
    await connection.execute("create index ix_new on messages (slot)")
    await connection.execute("update pg_index set indisvalid = false where indexrelid = 'ix_new'::regclass")
    await migrate_database(database_url, scripts=scripts)
    definition = await connection.fetchval("select indexdef from pg_indexes where indexname = 'ix_new'")
    assert definition.endswith("(hop)")
    await migrate_database(database_url, revision=str(current_revision()), scripts=scripts)
    assert await connection.fetchval("select to_regclass('ix_new')") is None


async def test_a_month_that_is_made_meanwhile_gets_the_index(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_step(scripts, 'online.create_index("ix_new", "usage_events", "model")')
    await connection.execute("create index ix_new on only usage_events (model)")
    assert await connection.fetchval("select make_usage_month('2031-05-01', null)") == "made"
    await migrate_database(database_url, scripts=scripts)
    months = await connection.fetch(
        "select indexrelid::regclass from pg_index i join pg_inherits on inhrelid = indexrelid"
        " where inhparent = 'ix_new'::regclass and i.indisvalid"
    )
    partitions = await connection.fetchval(
        "select count(*) from pg_inherits where inhparent = 'usage_events'::regclass"
    )
    assert len(months) == partitions >= 2
    assert await connection.fetchval("select indisvalid from pg_index where indexrelid = 'ix_new'::regclass")


async def test_a_row_that_is_locked_is_changed_later(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_step(scripts, """online.backfill("listeners", "name", "capacity = 7", "capacity < 7", batch=10)""")
    await connection.execute(
        "insert into listeners (name, is_agent) select 'l' || i, true from generate_series(1, 25) i"
    )
    other = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("select from listeners where name = 'l3' for update")
        migrating = asyncio.create_task(migrate_database(database_url, scripts=scripts))
        async with asyncio.timeout(30):
            while await other.fetchval("select count(*) from listeners where capacity < 7") != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not migrating.done()
    await migrating
    assert await other.fetchval("select count(*) from listeners where capacity < 7") == 0
    await other.close()


async def test_what_takes_long_under_its_lock_is_given_up(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    add_step(scripts, """online.briefly("do 'begin lock table messages; perform pg_sleep(3); end'")""")
    with pytest.raises(DatabaseUnavailable, match=r"took too long at .*: stop the services"):
        await migrate_database(database_url, scripts=scripts)
    assert await connection.fetchval("select version_num from alembic_version") == current_revision()


# A victim is whom the server chooses: this one says that it is, the first time.
VICTIM = "do 'begin if nextval(''tries'') = 1 then raise exception using errcode = ''40P01''; end if; end'"


async def test_the_victim_of_a_deadlock_is_tried_again(
    connection: asyncpg.Connection, database_url: str, scripts: Path
) -> None:
    await connection.execute("create sequence tries")
    add_step(scripts, f'online.briefly("{VICTIM}")')
    await migrate_database(database_url, scripts=scripts)
    assert await connection.fetchval("select last_value from tries") == 2


async def test_rights_that_another_sets_meanwhile_are_set_again(
    connection: asyncpg.Connection, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("grant select on threads to organism_router with grant option")
    migrating = asyncio.create_task(migrate_database(database_url))
    await until(lambda: waits(other))
    await transaction.commit()
    await migrating
    may = "select has_table_privilege('organism_router', 'threads', 'select with grant option')"
    assert not await other.fetchval(may)
    await other.close()


async def waits(connection: asyncpg.Connection) -> bool:
    statement = """
        select exists (select from pg_stat_activity where datname = current_database()
            and application_name = 'migrate' and wait_event_type = 'Lock')
    """
    return bool(await connection.fetchval(statement))


async def test_a_revision_that_is_not_known_is_refused(database_url: str) -> None:
    with pytest.raises(InvalidInput, match="there is no revision 0815: there are 0001, "):
        await migrate_database(database_url, revision="0815")
