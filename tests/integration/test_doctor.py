"""`organism doctor` on real parts: each check finds the failure that is planted for it."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text

from tests.support.broker import Broker
from tests.support.least_rights import PASSWORD, Users, make_users, run_organism, with_user
from tests.support.postgres import Databases
from xml_pipeline.doctor.examination import Patient, examine
from xml_pipeline.doctor.model import Finding, State
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.storage.database import Database

Findings = dict[str, Finding]


async def findings(**patient: object) -> Findings:
    return {finding.check: finding for finding in await examine(Patient(**patient))}  # type: ignore[arg-type]


def failures(found: Findings) -> set[str]:
    return {check for check, finding in found.items() if finding.state is State.FAILED}


async def until(look: Callable[[], Awaitable[Findings]], wanted: set[str]) -> None:
    """An alarm takes the broker a moment."""
    found = failures(await look())
    async with asyncio.timeout(60):
        while found != wanted:
            await asyncio.sleep(0.2)
            found = failures(await look())


# The database


async def change(url: str, *statements: str) -> None:
    db = Database.connect(url)
    async with db.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await db.close()


@pytest.fixture
async def months(database_url: str) -> None:
    """What a usage service would have made."""
    await change(database_url, *(f"select make_usage_month(now() + interval '{n} months', null)" for n in range(3)))


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


# The broker


@asynccontextmanager
async def readers(url: str, name: str, *, but: str = "") -> AsyncIterator[None]:
    """An organism with one listener, each of whose queues is read."""
    names = Names(name)
    bus = await connect_bus(url, name="test")
    try:
        await bus.declare(organism_topology(name, ["a"]))
        for queue in (names.ingress, names.dead, names.usage, names.agent("a")):
            if queue != but:
                await bus.consume(queue, prefetch=1)
        yield
    finally:
        await bus.close()


def patient(broker: Broker, name: str) -> dict[str, object]:
    return {"amqp_url": broker.amqp_url, "organism": name, "listeners": ("a",)}


async def test_a_broker_that_is_well(managed_broker: Broker, organism_name: str) -> None:
    async with readers(managed_broker.amqp_url, organism_name):
        found = await findings(
            **patient(managed_broker, organism_name), management_url=managed_broker.node.management_url
        )
    assert failures(found) == set()
    assert found["broker-alarms"].state is State.OK
    assert found["broker-clock"].state is State.OK
    assert found["broker-version"].said.startswith("RabbitMQ ")


async def test_queues_that_are_missing_or_not_read(managed_broker: Broker, organism_name: str) -> None:
    names = Names(organism_name)
    assert failures(await findings(**patient(managed_broker, organism_name))) == {"broker-topology"}
    async with readers(managed_broker.amqp_url, organism_name, but=names.usage):
        found = await findings(**patient(managed_broker, organism_name))
    assert failures(found) == {"consumers"}
    assert found["consumers"].said == f"nobody reads {names.usage} (0 waiting)"


@pytest.mark.parametrize(
    ("plant", "mend"),
    [
        (("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.6")),
        (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
    ],
)
async def test_alarms(
    managed_broker: Broker, organism_name: str, plant: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    control, management = managed_broker.node.control, managed_broker.node.management_url
    look = partial(findings, **patient(managed_broker, organism_name))
    async with readers(managed_broker.amqp_url, organism_name):
        await asyncio.to_thread(control, *plant)
        try:
            await until(look, {"broker-blocked"})
            await until(partial(look, management_url=management), {"broker-blocked", "broker-alarms"})
        finally:
            await asyncio.to_thread(control, *mend)
        await until(partial(look, management_url=management), set())


async def test_a_broker_that_is_gone_or_lets_nobody_in(managed_broker: Broker, organism_name: str) -> None:
    gone = await findings(amqp_url="amqp://guest:guest@127.0.0.1:1/", organism=organism_name)
    assert failures(gone) == {"broker"}
    wrong = managed_broker.amqp_url.replace("guest:guest", "guest:wrong")
    refused = await findings(amqp_url=wrong, organism=organism_name)
    assert "refused the login" in refused["broker"].said
    management = managed_broker.node.management_url.replace("guest:guest", "guest:wrong")
    found = await findings(**patient(managed_broker, organism_name), management_url=management)
    assert "broker-management" in failures(found)


# Users of both, and the command itself


@pytest.fixture
def organism_file(tmp_path: Path, organism_name: str) -> Path:
    file = tmp_path / "organism.yaml"
    file.write_text(
        f"organism: {{name: {organism_name}}}\n"
        "listeners: [{name: a, payload_class: said.Said, handler: said.handle, description: Takes what is said}]\n"
    )
    (tmp_path / "said.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Said:\n    text: str\n\nasync def handle(p, m): ...\n"
    )
    return file


@pytest.fixture
def users(managed_broker: Broker, database_url: str, organism_file: Path) -> Users:
    way = ("--management", managed_broker.node.management_url)
    return make_users(organism_file, managed_broker.amqp_url, database_url, way)


@pytest.mark.usefixtures("months")
async def test_users_as_they_are_made_and_as_somebody_changed_them(
    managed_broker: Broker, users: Users, organism_name: str
) -> None:
    async def look() -> Findings:
        return await findings(
            **patient(managed_broker, organism_name),
            management_url=managed_broker.node.management_url,
            database_url=users.database_url,
            prefix=users.prefix,
        )

    node = managed_broker.node
    async with readers(managed_broker.amqp_url, organism_name):
        found = await look()
        rights = {check: finding for check, finding in found.items() if "-rights" in check}
        assert {finding.state for finding in rights.values()} == {State.OK}, rights
        assert len(rights) == 8
        await asyncio.to_thread(node.control, "set_permissions", f"{users.prefix}agent-worker", ".*", ".*", ".*")
        await asyncio.to_thread(node.control, "clear_topic_permissions", f"{users.prefix}usage")
        await asyncio.to_thread(node.control, "set_user_tags", f"{users.prefix}gateway", "administrator")
        await asyncio.to_thread(node.control, "clear_permissions", f"{users.prefix}router")
        found = await look()
        await asyncio.to_thread(node.control, "set_user_tags", f"{users.prefix}gateway", "policymaker", "monitoring")
        tagged = (await look())["broker-rights-gateway"]
    assert failures(found) == {f"broker-rights-{service}" for service in ("agent-worker", "usage", "gateway", "router")}
    assert "topic write is .*, not" in found["broker-rights-usage"].said
    assert tagged.state is State.FAILED
    assert "policymaker" in tagged.said


def test_a_user_who_reads_one_listeners_assignments_alone(
    managed_broker: Broker, database_url: str, organism_file: Path
) -> None:
    prefix = f"n{secrets.token_hex(3)}-"
    environment = {
        "ORGANISM_AMQP_URL": managed_broker.amqp_url,
        "ORGANISM_DATABASE_URL": database_url,
        "ORGANISM_FILE": str(organism_file),
        "ORGANISM_AGENT_WORKER_BROKER_PASSWORD": PASSWORD,
    }
    narrow = ("--prefix", prefix, "--service", "agent-worker", "--listener", "a")
    management = ("--management", managed_broker.node.management_url)
    done = run_organism("broker-setup", *narrow, *management, environment=environment)
    assert done.returncode == 0, done.stderr
    done = run_organism("doctor", "--json", *narrow, *management, environment=environment)
    said = {one["check"]: one["state"] for one in json.loads(done.stdout)["findings"] if "-rights-" in one["check"]}
    assert said == {"broker-rights-agent-worker": "ok"}
    for option, unknown, told in (
        ("--service", "worker", "there is no user for worker"),
        ("--listener", "nobody", "there is no listener nobody"),
    ):
        done = run_organism("doctor", option, unknown, environment=environment)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_the_command_line(managed_broker: Broker, database_url: str, organism_file: Path, organism_name: str) -> None:
    urls = {"ORGANISM_AMQP_URL": managed_broker.amqp_url, "ORGANISM_DATABASE_URL": database_url}
    environment = {**urls, "ORGANISM_FILE": str(organism_file)}
    done = run_organism("doctor", environment=environment)
    assert done.returncode == 1
    assert "failed   broker-topology" in done.stdout
    assert "do: run 'organism broker-setup', or start a router" in done.stdout
    assert "guest" not in done.stdout
    done = run_organism("doctor", "--json", environment=environment)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["healthy"] is False
    failed = [finding for finding in said["findings"] if finding["state"] == "failed"]
    assert all(finding["fix"] for finding in failed)
    assert organism_name in next(finding["said"] for finding in failed if finding["check"] == "broker-topology")


@pytest.mark.usefixtures("months")
def test_the_command_line_on_what_is_well_and_on_nothing(database_url: str, tmp_path: Path) -> None:
    nothing = {"ORGANISM_AMQP_URL": "", "ORGANISM_DATABASE_URL": ""}
    done = run_organism("doctor", environment={**nothing, "ORGANISM_DATABASE_URL": database_url})
    assert done.returncode == 0, done.stdout
    assert "ORGANISM_AMQP_URL is not set" in done.stdout
    done = run_organism("doctor", environment=nothing)
    assert done.returncode == 2
    assert "neither ORGANISM_AMQP_URL nor ORGANISM_DATABASE_URL is set" in done.stderr
    missing = {**nothing, "ORGANISM_AMQP_URL": "amqp://127.0.0.1/", "ORGANISM_FILE": str(tmp_path / "none.yaml")}
    assert run_organism("doctor", environment=missing).returncode == 2


def test_passwords_are_not_told(managed_broker: Broker, database_url: str, organism_file: Path) -> None:
    gone, file = f"somebody:{PASSWORD}@127.0.0.1:1", {"ORGANISM_FILE": str(organism_file)}
    urls = {"ORGANISM_AMQP_URL": f"amqp://{gone}/", "ORGANISM_DATABASE_URL": f"postgresql://{gone}/nothing"}
    wrong = {
        "ORGANISM_AMQP_URL": with_user(managed_broker.amqp_url, "nobody"),
        "ORGANISM_DATABASE_URL": with_user(database_url, "nobody"),
    }
    management = with_user(managed_broker.node.management_url, "nobody")
    unreadable = f"http://somebody:{PASSWORD}@[bad"
    for environment, address in ((urls, f"http://{gone}"), (wrong, management)):
        done = run_organism("doctor", "--management", address, environment={**environment, **file})
        assert done.returncode == 1, done.stderr
        told = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")}
        assert told == {"broker", "broker-management", "database"}
        assert PASSWORD not in done.stdout + done.stderr
    done = run_organism("doctor", "--management", unreadable, environment={**urls, **file})
    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr
