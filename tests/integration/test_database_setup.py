"""`organism database-setup` by whoever is no superuser, on a server of its own, to which users and roles belong."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import pytest

from tests.support.least_rights import PASSWORD, run_organism, with_user
from tests.support.postgres_server import PostgresServer

SERVICES = ("gateway", "router", "usage")
BEYOND = """
    select rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls or not rolinherit
    from pg_roles where rolname = 'gateway'
"""


@dataclass(frozen=True, slots=True)
class Owned:
    """A database of `owner`, who may make roles."""

    superusers_url: str
    url: str


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    found = PostgresServer()
    try:
        found.create()
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
async def owned(server: PostgresServer) -> Owned:
    """With the schema, by its owner, as the Job for Kubernetes does it."""
    await change(
        server.url(),
        "drop database if exists organism with (force)",
        *(f"drop role if exists {name}" for name in (*SERVICES, "reader")),
        *(f"drop role if exists organism_{name}" for name in (*SERVICES, "reports")),
        "drop role if exists owner",
        f"create role owner login createrole password '{PASSWORD}'",
        "create database organism owner owner",
    )
    owned = Owned(server.url("organism"), with_user(server.url("organism"), "owner"))
    done = run_organism("migrate", environment={"ORGANISM_DATABASE_URL": owned.url})
    assert done.returncode == 0, done.stderr
    return owned


async def change(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def ask(url: str, question: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def setup(url: str, *more: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    passwords = {f"ORGANISM_{service.upper()}_DATABASE_PASSWORD": password for service in SERVICES}
    return run_organism("database-setup", *more, environment={"ORGANISM_DATABASE_URL": url, **passwords})


async def test_an_owner_who_may_make_roles_repeats_it(owned: Owned) -> None:
    for password in (PASSWORD, "another-password"):
        done = setup(owned.url, password=password)
        assert done.returncode == 0, done.stderr
        for service in SERVICES:
            assert await ask(with_user(owned.url, service, password), "select count(*) from messages") is not None


async def test_what_a_user_got_since_is_taken_away(owned: Owned) -> None:
    assert setup(owned.url).returncode == 0
    await change(owned.superusers_url, "alter role gateway noinherit createdb createrole replication bypassrls")
    done = setup(owned.url, "--service", "gateway")
    assert done.returncode == 1
    assert "or a superuser" in done.stderr
    await change(owned.superusers_url, "alter role gateway superuser")
    done = setup(owned.superusers_url, "--service", "gateway")
    assert done.returncode == 0, done.stderr
    assert await ask(owned.url, BEYOND) is False


async def test_to_close_a_database_is_its_owners(owned: Owned) -> None:
    # Who owns the tables, and not the database, may revoke nothing of it: PostgreSQL warns, and does nothing.
    await change(owned.superusers_url, "alter database organism owner to postgres")
    done = setup(owned.url, "--close")
    assert done.returncode == 1
    assert "owns the database organism, or a superuser" in done.stderr
    assert await may_enter(owned, "public")
    # All or nothing.
    assert await ask(owned.url, "select count(*) from pg_roles where rolname = 'gateway'") == 0
    assert setup(owned.superusers_url, "--close", "--service", "gateway").returncode == 0
    assert not await may_enter(owned, "public")


async def test_a_closed_database_lets_in_whom_its_owner_lets_in(owned: Owned) -> None:
    await change(owned.superusers_url, "create role reader login", "grant connect on database organism to reader")
    for _ in range(2):
        assert setup(owned.url, "--close").returncode == 0
    assert [name for name in ("public", "reader", *SERVICES) if await may_enter(owned, name)] == ["reader", *SERVICES]
    # A user that nobody but the database's owner may let in.
    await change(
        owned.superusers_url,
        "alter database organism owner to postgres",
        "grant connect on database organism to owner",
        "revoke connect on database organism from router",
    )
    done = setup(owned.url, "--close")
    assert done.returncode == 1
    assert "owns the database organism" in done.stderr


async def may_enter(owned: Owned, user: str) -> bool:
    return bool(await ask(owned.superusers_url, f"select has_database_privilege('{user}', 'organism', 'connect')"))
