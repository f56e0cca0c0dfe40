"""`organism doctor` on a real database: each check finds the failure that is planted for it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.integration.doctor.asking import change, failures, findings
from tests.support.postgres import Databases
from xml_pipeline.doctor.model import State


@pytest.mark.usefixtures("months")
async def test_a_fresh_database_is_well(database_url: str) -> None:
    found = await findings(database_url=database_url)
    assert failures(found) == set()
    assert found["broker"].state is State.SKIPPED
    assert found["database-rights"].state is State.OK, found["database-rights"].said
    assert found["database-clock"].state is State.OK
    assert found["database-rights-gateway"].state is State.WARNING


@pytest.mark.usefixtures("months")
@pytest.mark.parametrize(
    ("statement", "check", "said"),
    [
        ("grant delete on usage_events to organism_gateway", "database-rights", "has delete on usage_events"),
        ("grant update (body) on messages to organism_usage", "database-rights", "has update on messages.body"),
        ("revoke insert on messages from organism_router", "database-rights", "lacks insert on messages"),
        ("revoke update (taken_at) on inbox from organism_router", "database-rights", "lacks update on inbox.taken_at"),
        ("grant select on usage_events to public", "database-rights", "has select on usage_events"),
        (
            "grant select on usage_events_other to organism_router",
            "database-rights",
            "has select on usage_events_other",
        ),
        ("update alembic_version set version_num = '0001'", "schema", "the schema is 0001"),
        ("update alembic_version set version_num = 'next'", "schema", "the schema is next"),
        (
            "with t as (insert into threads (id) values (gen_random_uuid()) returning id)"
            " insert into inbox (id, thread_id, to_id, request_hash, body, created_at)"
            " select id, id, 'a', '', '', now() - interval '1 hour' from t",
            "injects",
            "1 accepted injects wait for a router, the oldest for 36",
        ),
    ],
)
async def test_a_failure_that_is_planted_in_the_database(
    database_url: str, statement: str, check: str, said: str
) -> None:
    await change(database_url, statement)
    found = await findings(database_url=database_url)
    assert failures(found) == {check}
    assert said in found[check].said


@pytest.mark.usefixtures("months")
async def test_what_somebody_should_look_at(database_url: str) -> None:
    await change(
        database_url,
        "insert into dead_letters (id, code, reason, body) values (gen_random_uuid(), 'timeout', 'x', '')",
    )
    found = await findings(database_url=database_url)
    assert failures(found) == set()
    assert found["dead-letters"].state is State.WARNING
    assert "1 dead letters wait" in found["dead-letters"].said


async def test_months_that_nobody_made(database_url: str) -> None:
    # A migration makes some; a month later they are not enough.
    await change(
        database_url,
        """do $$ declare t text; begin
            for t in select relname from pg_class where relname ~ '^usage_events_\\d' and relispartition loop
                execute format('drop table %I', t);
            end loop;
        end $$""",
    )
    assert failures(await findings(database_url=database_url)) == {"months"}


@pytest.fixture
async def prefix(database_url: str, postgres: Databases) -> AsyncIterator[str]:
    """Of users whom the test makes; users belong to the server, and would outlive the database."""
    prefix = f"d{secrets.token_hex(3)}_"
    yield prefix
    here, admin = await asyncpg.connect(database_url), await asyncpg.connect(postgres.admin_url)
    made = await admin.fetch("select rolname from pg_roles where starts_with(rolname, $1)", prefix)
    for name in sorted((row["rolname"] for row in made), reverse=True):
        await here.execute(f"reassign owned by {name} to current_user; drop owned by {name} cascade")
        await admin.execute(f"drop role {name}")
    await here.close()
    await admin.close()


@pytest.mark.usefixtures("months")
async def test_a_user_in_a_group_of_another(database_url: str, prefix: str) -> None:
    await change(
        database_url,
        f"create role {prefix}gateway login in role organism_gateway, organism_usage",
        f"create role {prefix}router login createrole in role organism_router",
        f"create role {prefix}usage login in role organism_usage",
    )
    found = await findings(database_url=database_url, prefix=prefix)
    assert failures(found) == {"database-rights-gateway", "database-rights-router"}
    assert found["database-rights-usage"].state is State.OK


@pytest.mark.usefixtures("months")
async def test_a_user_with_rights_of_its_own(database_url: str, prefix: str) -> None:
    await change(
        database_url,
        f"create role {prefix}gateway login in role organism_gateway",
        f"create role {prefix}router login in role organism_router",
        f"create role {prefix}usage login noinherit in role organism_usage",
        f"grant delete on messages to {prefix}gateway",
        f"alter table top_ups owner to {prefix}router",
    )
    found = await findings(database_url=database_url, prefix=prefix)
    assert failures(found) == {f"database-rights-{service}" for service in ("gateway", "router", "usage")}
    assert f"{prefix}gateway has delete on messages" in found["database-rights-gateway"].said
    assert f"{prefix}router has delete on top_ups" in found["database-rights-router"].said
    assert f"{prefix}usage lacks insert on " in found["database-rights-usage"].said


@pytest.mark.usefixtures("months")
async def test_a_group_that_two_gave_is_one(database_url: str, prefix: str) -> None:
    await change(
        database_url,
        f"create role {prefix}admin",
        f"grant organism_usage to {prefix}admin with admin option",
        f"create role {prefix}usage login in role organism_usage",
        f"grant organism_usage to {prefix}usage granted by {prefix}admin",
    )
    found = await findings(database_url=database_url, prefix=prefix)
    assert found["database-rights-usage"].state is State.OK, found["database-rights-usage"].said


@pytest.mark.usefixtures("months")
async def test_a_services_own_user_may_ask_too(database_url: str) -> None:
    found = await findings(database_url=f"{database_url}?role=organism_router")
    assert failures(found) == set()
    assert found["unpriced-models"].state is State.SKIPPED
    assert found["injects"].state is State.OK


async def test_a_database_that_is_empty_or_gone(empty_database_url: str) -> None:
    assert failures(await findings(database_url=empty_database_url)) == {"schema"}
    gone = await findings(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert failures(gone) == {"database"}
    assert "correct ORGANISM_DATABASE_URL" in str(gone["database"].fix)
