"""What the users of the database may not do, and how they are made."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from tests.support.doc_commands import commands, ended, shell
from tests.support.least_rights import PASSWORD, run_organism, with_user
from tests.support.postgres import Databases
from xml_pipeline.errors import Refused
from xml_pipeline.storage import ledger_tables, tables
from xml_pipeline.storage.columns import metadata
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.rights import REPORTS, RIGHTS, group_of
from xml_pipeline.storage.schema import migrate_database, require_current_schema
from xml_pipeline.storage.users import set_up_users

SERVICES = ("gateway", "router", "usage")
# Tables that no service touches: they are for who archives and closes the books.
NOBODYS = {"usage_archives"}
REFUSED = {
    "gateway": (
        "insert into usage_events default values",
        "delete from usage_events",
        "select cost from usage_events",
        "update budgets set held = 0",
        "update budgets set prompt_tokens = 0",
        "delete from budgets",
        "insert into messages default values",
        "update messages set body = ''",
        "update messages set to_id = 'payer'",
        "update inbox set body = ''",
        "delete from audit_log",
        "update audit_log set actor = 'somebody else'",
        "insert into turns default values",
        "insert into holds default values",
        "update usage_rollups set cost = 0",
        "update configurations set text = ''",
        "insert into api_keys default values",
        "update api_keys set role = 'admin'",
        "update api_keys set revoked_at = null",
        "select make_usage_month(now(), null)",
        "create table mine (id int)",
        "alter table threads disable trigger all",
        "drop table threads",
        "truncate threads",
    ),
    "router": (
        "select from api_keys",
        "update budgets set topped_up = 1",
        "insert into budgets default values",
        "insert into holds default values",
        "select from usage_events",
        "update listeners set paused = false",
        "insert into inbox default values",
        "update inbox set body = ''",
        "insert into threads default values",
        "delete from messages",
        "delete from dead_letters",
        "update organism_state set usage_period = 7",
        "select actor from audit_log",
        "select make_usage_month(now(), null)",
        "create table mine (id int)",
        "drop table messages",
    ),
    "usage": (
        "insert into messages default values",
        "update messages set body = ''",
        "insert into inbox default values",
        "update threads set tags = '{}'",
        "update usage_events set cost = 0",
        "update listeners set paused = true",
        "update organism_state set usage_period = 7",
        "insert into top_ups default values",
        "select from api_keys",
        "delete from budgets",
        "select from dead_letters",
        "update prices set rates = '{}'",
        "alter table usage_events detach partition usage_events_other",
        "create table mine (id int)",
        "drop table usage_events",
    ),
}


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(3)}_"


@pytest.fixture
def users(database_url: str, postgres: Databases, prefix: str) -> Iterator[dict[str, str]]:
    """URLs by service."""

    async def make() -> None:
        db = Database.connect(database_url)
        await set_up_users(db, dict.fromkeys(SERVICES, PASSWORD), prefix=prefix)
        await db.close()

    asyncio.run(make())
    yield {service: with_user(database_url, prefix + service) for service in SERVICES}
    drop(postgres, prefix)


def drop(postgres: Databases, prefix: str) -> None:
    """Users belong to the server, and would outlive the database."""

    async def each() -> None:
        connection = await asyncpg.connect(postgres.admin_url)
        for service in SERVICES:
            await connection.execute(f'drop role if exists "{prefix}{service}"')
        await connection.close()

    asyncio.run(each())


@pytest.mark.parametrize(("service", "statement"), [(name, one) for name in REFUSED for one in REFUSED[name]])
def test_refused(users: dict[str, str], service: str, statement: str) -> None:
    async def attempt() -> None:
        connection = await asyncpg.connect(users[service])
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        asyncio.run(attempt())


def test_every_table_is_somebodys() -> None:
    assert tables.turns.metadata is ledger_tables.usage_events.metadata is metadata
    named = {table for rights in RIGHTS.values() for table in rights} - {"alembic_version"}
    partitions = {name for name in metadata.tables if name.startswith("usage_events_")}
    assert set(metadata.tables) - partitions == named | NOBODYS


async def test_rights_are_exactly_these_after_every_migration(database_url: str) -> None:
    db = Database.connect(database_url)
    async with db.begin() as connection:
        for statement in (
            "grant all on all tables in schema public to organism_gateway",
            "revoke all on inbox from organism_router",
        ):
            await connection.execute(text(statement))
    await migrate_database(database_url)
    async with db.begin() as connection:
        rows = await connection.execute(
            text("""
                select grantee, table_name from information_schema.role_table_grants
                where grantee like 'organism\\_%' and table_schema = 'public'
                union
                select grantee, table_name from information_schema.column_privileges
                where grantee like 'organism\\_%' and table_schema = 'public'
            """)
        )
        found = {(row[0], row[1]) for row in rows}
    assert found == {(role, table) for role, rights in RIGHTS.items() for table in rights}
    await db.close()


async def test_a_database_without_any_rights_gets_all_of_them(database_url: str) -> None:
    db = Database.connect(database_url)
    async with db.begin() as connection:
        for statement in (
            "drop owned by organism_gateway, organism_router, organism_usage, organism_reports",
            "grant execute on function make_usage_month(timestamptz, bigint) to public",
        ):
            await connection.execute(text(statement))
    await migrate_database(database_url)
    async with db.begin() as connection:
        may = "select has_function_privilege(:role, 'make_usage_month(timestamptz, bigint)', 'execute')"
        roles = {role: await connection.scalar(text(may), {"role": role}) for role in (*RIGHTS, REPORTS)}
        assert [role for role in roles if roles[role]] == ["organism_usage"]
        read = "select has_table_privilege(:role, 'reports.cost_by_day', 'select')"
        assert await connection.scalar(text(read), {"role": REPORTS})
        assert await connection.scalar(
            text("select has_schema_privilege(:role, 'reports', 'usage')"), {"role": REPORTS}
        )
    await db.close()


async def test_who_may_make_no_roles_migrates_and_is_helped_later(postgres: Databases, empty_database_url: str) -> None:
    owner, name = f"t{secrets.token_hex(3)}_owner", empty_database_url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"create role {owner} login password '{PASSWORD}'")
    await admin.execute(f"alter database {name} owner to {owner}")
    url = with_user(empty_database_url, owner)
    try:
        await migrate_database(url)
        answer = await asyncio.to_thread(setup, url, "x_")
        assert answer.returncode == 1
        assert "may make roles" in answer.stderr
        answer = await asyncio.to_thread(setup, empty_database_url, f"{owner}_")
        assert answer.returncode == 0, answer.stderr
        as_gateway = await asyncpg.connect(with_user(empty_database_url, f"{owner}_gateway"))
        assert await as_gateway.fetchval("select count(*) from threads") == 0
        await as_gateway.close()
    finally:
        await admin.execute(f"drop database {name} with (force)")
        for role in (owner, *(f"{owner}_{service}" for service in SERVICES)):
            await admin.execute(f"drop role if exists {role}")
        await admin.close()


OTHERS = (
    "create table others (id int)",
    "create function others() returns int language sql return 1",
    # As extensions do with what is for superusers alone.
    "revoke all on function others() from public",
    "grant select on others to organism_gateway",
    "create view reports.others as select 1 as one",
)


async def test_what_is_of_another_owner_is_left_alone(empty_database_url: str) -> None:
    """Such as an extension that a superuser has made in the same schema."""
    owner, name = f"t{secrets.token_hex(3)}_owner", empty_database_url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(empty_database_url)
    await admin.execute(f"create role {owner} login createrole password '{PASSWORD}'")
    try:
        await admin.execute(f"alter database {name} owner to {owner}")
        await migrate_database(with_user(empty_database_url, owner))
        for statement in (*OTHERS, "grant all on threads to organism_usage"):
            await admin.execute(statement)
        await migrate_database(with_user(empty_database_url, owner))
        may = "select has_table_privilege($1, $2, $3)"
        assert await admin.fetchval(may, "organism_gateway", "others", "select")
        assert not await admin.fetchval(may, "organism_usage", "threads", "delete")
    finally:
        await admin.execute(f"reassign owned by {owner} to current_user")
        await admin.execute(f"drop owned by {owner}")
        await admin.execute(f"drop role {owner}")
        await admin.close()


async def test_an_owner_uses_roles_that_another_made_when_he_may(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    """Those of the server are made with the first database, by a superuser."""
    owner, name = f"t{secrets.token_hex(3)}_owner", empty_database_url.rsplit("/", 1)[1]
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"create role {owner} login createrole password '{PASSWORD}'")
    url = with_user(empty_database_url, owner)
    try:
        await admin.execute(f"alter database {name} owner to {owner}")
        await migrate_database(url)
        answer = await asyncio.to_thread(setup, url, f"{owner}_")
        assert answer.returncode == 1
        assert "may make roles" in answer.stderr
        let = commands("operations.md", "admin").replace(" to organism ", f" to {owner} ")
        await asyncio.to_thread(ended, shell(let, tmp_path, {"SERVER_URL": database_url}))
        answer = await asyncio.to_thread(setup, url, f"{owner}_")
        assert answer.returncode == 0, answer.stderr
    finally:
        await admin.execute(f"drop database {name} with (force)")
        for service in SERVICES:
            await admin.execute(f"drop role if exists {owner}_{service}")
        await admin.execute(f"drop owned by {owner}")
        await admin.execute(f"drop role {owner}")
        await admin.close()


def setup(url: str, prefix: str, *more: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    environment = {f"ORGANISM_{service.upper()}_DATABASE_PASSWORD": password for service in SERVICES}
    return run_organism(
        "database-setup", "--prefix", prefix, *more, environment={"ORGANISM_DATABASE_URL": url, **environment}
    )


def test_again_with_another_password_from_a_folder(
    users: dict[str, str], database_url: str, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "gateway").write_text("another-password\n")
    done = run_organism(
        "database-setup", "--prefix", prefix, "--passwords", str(tmp_path), "--service", "gateway",
        environment={"ORGANISM_DATABASE_URL": database_url},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    async def entered(url: str) -> bool:
        try:
            await (await asyncpg.connect(url)).close()
        except asyncpg.InvalidPasswordError:
            return False
        return True

    assert not asyncio.run(entered(users["gateway"]))
    assert asyncio.run(entered(with_user(database_url, f"{prefix}gateway", "another-password")))
    assert asyncio.run(entered(users["router"]))


async def test_a_user_without_a_role_is_told_so(database_url: str, postgres: Databases) -> None:
    name = f"t{secrets.token_hex(3)}_nobody"
    admin = await asyncpg.connect(postgres.admin_url)
    await admin.execute(f"create role {name} login password '{PASSWORD}'")
    db = Database.connect(with_user(database_url, name))
    try:
        with pytest.raises(Refused, match="organism database-setup"):
            await require_current_schema(db)
    finally:
        await db.close()
        await admin.execute(f"drop role {name}")
        await admin.close()


def test_what_is_missing_is_named(database_url: str) -> None:
    done = run_organism("database-setup", environment={"ORGANISM_DATABASE_URL": database_url})
    assert done.returncode == 2
    assert "ORGANISM_GATEWAY_DATABASE_PASSWORD: there is no password" in done.stderr
    done = run_organism("database-setup", "--service", "worker", environment={"ORGANISM_DATABASE_URL": database_url})
    assert done.returncode == 2
    assert "there is no user for worker here: there are gateway, router, usage" in done.stderr


def test_a_closed_database_lets_nobody_else_in(
    users: dict[str, str], database_url: str, postgres: Databases, prefix: str
) -> None:
    other = postgres.create_database()
    try:
        done = setup(other, f"{prefix}other_", "--close")
        assert done.returncode == 0

        async def enter(user: str) -> None:
            await (await asyncpg.connect(with_user(other, user))).close()

        asyncio.run(enter(f"{prefix}other_router"))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            asyncio.run(enter(f"{prefix}router"))
    finally:
        postgres.drop(other)
        drop(postgres, f"{prefix}other_")


def test_groups_are_those_of_the_services() -> None:
    assert set(RIGHTS) == {group_of(service) for service in SERVICES}
