"""What deploy/kubernetes says, on a real broker and a real database: the setup's commands, the services with the
environment and the files that their manifests name, and the query that KEDA asks PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from tests.support import kubernetes as k8s
from tests.support.broker import Broker
from tests.support.fleet import Fleet, Service
from tests.support.kubernetes import PLACE, SERVICES
from tests.support.least_rights import PASSWORD, run_organism, with_user
from tests.support.pods import Pods, example_values
from tests.support.postgres import Databases
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.observing import read_open

JOBS, DEPLOYMENTS = k8s.jobs(), k8s.deployments()
# What the scripted model always says, in capitals.
GREETING = "HELLO, DAN! IT IS A PLEASURE TO MEET YOU."
ORGANISM = {file.name: file.read_text() for file in (PLACE / "base" / "organism").iterdir()}


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(3)}-"


@pytest.fixture
def pods(managed_broker: Broker, empty_database_url: str, tmp_path: Path, prefix: str) -> Pods:
    where = managed_broker.amqp_url, managed_broker.node.management_url, empty_database_url
    found, config_maps = example_values(prefix, *where, PASSWORD)
    return Pods(tmp_path, found, {**config_maps, "organism": ORGANISM})


def run_setup(pods: Pods, prefix: str) -> None:
    """Its containers, one after the other; users belong to a server that tests share, so their names begin anew."""
    job = JOBS["setup"]
    for container in job.containers:
        more = [] if container["name"] == "migrate" else ["--prefix", prefix]
        organism = {"ORGANISM_FILE": "/organism/organism.yaml"}
        if container["name"] == "broker-setup":
            organism = {"ORGANISM_FILE": str(pods.place(job, container, "/organism") / "organism.yaml")}
        environment = pods.environment(job, container)
        arguments = pods.arguments(job, container)
        # The list of a node's processes shows them.
        assert [word for word in arguments if urlsplit(word).password] == []
        done = run_organism(*arguments, *more, environment={**organism, **environment})
        assert done.returncode == 0, done.stderr


def started(fleet: Fleet, pods: Pods, name: str) -> Service:
    deployment = DEPLOYMENTS[name]
    [container] = deployment.pod["containers"]
    environment = pods.environment(deployment, container)
    environment.pop("ORGANISM_PORT", None)  # a free one of this machine
    file = pods.place(deployment, container, "/organism") / "organism.yaml"
    own = {"ORGANISM_DATABASE_URL": "", "ORGANISM_FILE": str(file)}
    return fleet.start_one(name, environment={**own, **environment})


@pytest.mark.timeout(300)
def test_the_manifests_make_an_organism_that_answers_and_stops_in_time(pods: Pods, prefix: str) -> None:
    run_setup(pods, prefix)
    [commands] = JOBS["commands"].containers
    key = run_organism(
        "key", "create", "--name", "first", "--role", "admin", environment=pods.environment(JOBS["commands"], commands)
    )
    fleet = Fleet(Path("none"), "", "", pods.folder)
    try:
        for name in SERVICES:
            started(fleet, pods, name)
        for service in fleet.services:
            service.wait_ready()
            probes = DEPLOYMENTS[service.name].pod["containers"][0]
            for kind in ("startup", "liveness", "readiness"):
                answer = service.says(probes[f"{kind}Probe"]["httpGet"]["path"])
                assert answer is not None
                assert answer.is_success
        assert answered(fleet.urls()[0], key.stdout.strip()) == {"text": GREETING}
        for service in fleet.services:
            status, seconds = service.terminate()
            pod = DEPLOYMENTS[service.name].pod
            assert status == 0
            assert seconds < pod["terminationGracePeriodSeconds"]
    except BaseException:
        print(fleet.logs())
        raise
    finally:
        fleet.stop()


def answered(url: str, key: str) -> dict[str, str]:
    body = {"to": "greeter", "payload": {"name": "Dan"}}
    headers = {"authorization": f"Bearer {key}", "prefer": "wait=30"}
    answer = httpx.post(f"{url}/api/v1/inject", json=body, headers=headers, timeout=60)
    assert answer.is_success, answer.text
    return dict(answer.json()["reply"]["payload"])


# What KEDA asks


[SCALED] = k8s.read(PLACE / "keda" / "postgresql" / "scaledobject.yaml")
QUERY = SCALED["spec"]["triggers"][0]["metadata"]["query"]
THREAD = "insert into threads (id) values (:thread)"
MESSAGE = text("""
    insert into messages
        (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state, parked_for, due_at)
    values
        (:id, :thread, :slot, 'api', :to, 'request', 'x', '', false, :state, :parked_for,
         clock_timestamp() + make_interval(secs => :due))
""")
INJECT = text("""
    insert into inbox (id, thread_id, to_id, request_hash, body, taken_at)
    values (:id, :thread, :to, '', '', case when :taken then now() end)
""")


@pytest.fixture
async def counting(postgres: Databases, database_url: str) -> AsyncIterator[str]:
    """The URL of the user that user.sql makes, under a name of this test's own."""
    name = f"t{secrets.token_hex(3)}_autoscaler"
    statements = (PLACE / "keda" / "postgresql" / "user.sql").read_text().replace("autoscaler", name)
    connection = await asyncpg.connect(database_url)
    await connection.execute(statements)
    await connection.execute(f"alter role {name} password '{PASSWORD}'")
    yield with_user(database_url, name)
    await connection.execute(f"drop owned by {name}; drop role {name}")
    await connection.close()


class Backlog:
    """Puts messages into a database, in a thread of their own."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._thread = uuid4()
        self._slot = 0

    async def begin(self) -> None:
        async with self._db.begin() as connection:
            await connection.execute(text(THREAD), {"thread": self._thread})
            for name, paused, retired in (
                ("reader", False, False),
                ("writer", False, False),
                ("sleeper", True, False),
                ("gone", False, True),
            ):
                row = {"name": name, "paused": paused, "retired": retired}
                listeners = (
                    "insert into listeners (name, is_agent, paused, retired) values (:name, true, :paused, :retired)"
                )
                await connection.execute(text(listeners), row)

    async def message(self, to: str, state: str, count: int, *, due: float | None = None, parked: bool = False) -> None:
        rows = []
        for _ in range(count):
            self._slot += 1
            named = {"id": uuid4(), "thread": self._thread, "slot": self._slot, "to": to, "state": state}
            rows.append({**named, "due": due, "parked_for": 5 if parked else None})
        async with self._db.begin() as connection:
            await connection.execute(MESSAGE, rows)

    async def inject(self, to: str, *, taken: bool = False) -> None:
        row = {"id": uuid4(), "thread": self._thread, "to": to, "taken": taken}
        async with self._db.begin() as connection:
            await connection.execute(INJECT, row)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database.connect(database_url)
    yield db
    await db.close()


async def counted(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(QUERY))
    finally:
        await connection.close()


async def test_it_counts_what_the_busiest_listener_could_do_now(db: Database, counting: str) -> None:
    backlog = Backlog(db)
    assert await counted(counting) == 0
    await backlog.begin()
    assert await counted(counting) == 0
    for state in ("waiting", "closed"):
        await backlog.message("reader", state, 50)
    await backlog.message("reader", "ready", 50, due=3600)
    await backlog.message("reader", "ready", 50, parked=True)
    await backlog.inject("reader", taken=True)
    for nobodys in ("sleeper", "gone", "unknown"):
        await backlog.message(nobodys, "ready", 100)
    assert await counted(counting) == 0
    await backlog.message("reader", "out", 3)
    await backlog.message("reader", "ready", 2)
    await backlog.message("reader", "ready", 1, due=-1)
    await backlog.inject("reader")
    await backlog.message("writer", "ready", 4)
    assert await counted(counting) == 7
    await backlog.message("writer", "out", 5)
    assert await counted(counting) == 9
    async with db.begin() as connection:
        told = await read_open(connection)
    states = {"accepted", "ready", "out"}
    assert sum(one.count for one in told if one.listener == "reader" and one.state in states) == 7
    assert sum(one.count for one in told if one.listener == "writer" and one.state in states) == 9


@pytest.mark.parametrize(
    "statement",
    [
        "select body from messages",
        "select body from inbox",
        "select * from threads",
        "select secret_hash from api_keys",
        "update messages set parked_for = null",
        "delete from inbox",
        "create table mine (id int)",
    ],
)
async def test_it_may_do_nothing_else(counting: str, statement: str) -> None:
    connection = await asyncpg.connect(counting)
    try:
        await connection.execute("set default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()
