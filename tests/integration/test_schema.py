"""The schema that migrations make is the schema that the tables describe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Table, text
from sqlalchemy.schema import SchemaItem

import xml_pipeline.storage.ledger_tables
import xml_pipeline.storage.tables  # noqa: F401 - both describe tables
from xml_pipeline.errors import DatabaseUnavailable, SchemaOutdated
from xml_pipeline.storage.columns import metadata
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate, migrate_database, require_current_schema

# What autogenerate does not compare: checks, the definition of indexes, identities.
# Partitions are made as time goes on; they are not described.
_CATALOG = """
    with partitions as (select oid, relname from pg_class where relispartition)
    select 'constraint', conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid)
      from pg_constraint
     where connamespace = 'public'::regnamespace and conrelid not in (select oid from partitions)
    union all
    select 'index', indexname, indexdef from pg_indexes
     where schemaname = 'public' and tablename not in (select relname from partitions)
    union all
    select 'column', table_name || '.' || column_name,
           concat_ws(' ', data_type, is_nullable, column_default, is_identity, identity_generation,
                     generation_expression)
      from information_schema.columns
     where table_schema = 'public' and table_name not in (select relname from partitions)
    order by 1, 2
"""


@pytest.fixture
async def database(empty_database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(empty_database_url)
    yield database
    await database.close()


async def _catalog(database: Database) -> list[tuple[str, str, str]]:
    async with database.begin() as connection:
        rows = (await connection.execute(text(_CATALOG))).all()
    return [(row[0], row[1], row[2]) for row in rows if "alembic_version" not in row[1]]


def _is_described(item: SchemaItem, name: str | None, kind: str, reflected: bool, compared: SchemaItem | None) -> bool:
    table = item if kind == "table" else getattr(item, "table", None)
    return not (isinstance(table, Table) and table.name.startswith("usage_events_"))


def _differences(connection: Connection) -> list[object]:
    described = {"compare_server_default": True, "include_object": _is_described}
    context = MigrationContext.configure(connection, opts=described)
    return list(compare_metadata(context, metadata))


# Of generated columns it compares nothing; the catalog has how they are generated.
@pytest.mark.filterwarnings("ignore:Computed default on budgets")
async def test_models_and_migrations_agree(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url)
    async with database.begin() as connection:
        assert await connection.run_sync(_differences) == []
    migrated = await _catalog(database)
    await migrate_database(empty_database_url, revision="base")
    async with database.begin() as connection:
        await connection.run_sync(metadata.create_all)
    assert await _catalog(database) == migrated


async def test_down_leaves_nothing_and_up_goes_again(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url)
    await migrate_database(empty_database_url, revision="base")
    assert await _catalog(database) == []
    await migrate_database(empty_database_url)
    await require_current_schema(database)


async def test_migrating_again_keeps_what_is_there(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url)
    async with database.begin() as connection:
        await connection.execute(text("insert into listeners (name, is_agent) values ('greeter', true)"))
    await asyncio.to_thread(migrate, empty_database_url)
    async with database.begin() as connection:
        assert await connection.scalar(text("select count(*) from listeners")) == 1


async def test_several_may_migrate_at_once(database: Database, empty_database_url: str) -> None:
    await asyncio.gather(*(migrate_database(empty_database_url) for _ in range(5)))
    await require_current_schema(database)


async def test_an_empty_database_is_refused(database: Database) -> None:
    with pytest.raises(SchemaOutdated, match="no tables yet: run 'organism migrate'"):
        await require_current_schema(database)


async def test_a_schema_that_this_version_does_not_know_is_refused(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url)
    async with database.begin() as connection:
        await connection.execute(text("update alembic_version set version_num = 'from-the-future'"))
    with pytest.raises(SchemaOutdated, match="newer than this program"):
        await require_current_schema(database)
    with pytest.raises(SchemaOutdated, match="newer than this program"):
        await migrate_database(empty_database_url)


async def test_the_one_row_of_the_organism_is_there(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url)
    async with database.begin() as connection:
        assert (await connection.execute(text("select id, usage_period from organism_state"))).all() == [(1, 1)]


async def test_migrating_a_database_that_is_gone_says_so() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        await migrate_database("postgresql://postgres@127.0.0.1:1/nothing")


async def test_going_down_gives_up_redrives_that_no_router_has_taken(
    database: Database, empty_database_url: str
) -> None:
    id_ = uuid4()
    await migrate_database(empty_database_url)
    async with database.begin() as connection:
        for statement in (
            "insert into threads (id, status, open, failed) values (:id, 'active', 1, 1)",
            "insert into inbox (id, thread_id, to_id, request_hash, body, letter_id)"
            " values (:id, :id, 'x', '', '', :id)",
        ):
            await connection.execute(text(statement), {"id": id_})
    await migrate_database(empty_database_url, revision="0001")
    async with database.begin() as connection:
        rows = await connection.execute(text("select status, open, taken_at is not null from threads, inbox"))
        assert [tuple(row) for row in rows] == [("error", 0, True)]


async def test_a_migration_lets_others_pass_while_a_table_is_held(database: Database, empty_database_url: str) -> None:
    await migrate_database(empty_database_url, revision="0001")
    async with database.begin() as reader:
        await reader.execute(text("select count(*) from inbox"))
        migrating = asyncio.create_task(migrate_database(empty_database_url))
        async with asyncio.timeout(20):
            for _ in range(30):
                async with database.begin() as other:
                    await other.execute(text("select count(*) from inbox"))
                await asyncio.sleep(0.1)
        assert not migrating.done()
    await migrating
    await require_current_schema(database)
