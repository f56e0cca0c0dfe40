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
