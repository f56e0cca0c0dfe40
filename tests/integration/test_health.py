"""Services that say how they are, while what they need is taken away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from tests.chaos.load import until
from tests.integration.ledger_support import ask, handled_message
from tests.support.broker import Broker
from tests.support.fleet import ROOT, Fleet, Service
from tests.support.gated import Gated
from tests.support.organism_up import organism as command
from tests.support.postgres import OwnDatabases
from tests.support.processes import free_port
from xml_pipeline.health.health import STEP_LIMIT, Health
from xml_pipeline.health.ops import ops_server
from xml_pipeline.ledger.service import run_usage
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate

SERVICES = ("gateway", "router", "usage", "agent-worker")
PROBE = ROOT / "services" / "probe.py"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def databases() -> Iterator[OwnDatabases]:
    own = OwnDatabases(durable=False, migrate=migrate)
    yield own
    own.close()


@pytest.fixture
def fleet(own_broker: Broker, databases: OwnDatabases, organism_name: str, tmp_path: Path) -> Iterator[Fleet]:
    organism = Gated(tmp_path, organism_name)
    fleet = Fleet(organism.file, own_broker.amqp_url, databases.create_database(), tmp_path)
    try:
        for name in SERVICES:
            fleet.start(name)
        for service in fleet.services:
            service.wait_ready()
        yield fleet
    except BaseException:
        print(fleet.logs())
        raise
    finally:
        fleet.stop()


async def told(service: Service, path: str) -> dict[str, Any]:
    answer = await asyncio.to_thread(service.says, path)
    return {} if answer is None else {"status": answer.status_code, **answer.json()}


async def at(url: str) -> httpx.Response:
    return await asyncio.to_thread(httpx.get, url, timeout=5.0)


async def until_ready_are(fleet: Fleet, *names: str) -> None:
    """Exactly these services are ready; all are alive all the time."""

    async def so() -> bool:
        for service in fleet.services:
            assert (await told(service, "/livez"))["status"] == 200
        return {service.name for service in fleet.services if service.ready} == set(names)

    await until(so)


def probed(service: Service) -> tuple[int, bool | None]:
    """As Docker asks: its exit code, and whether the service says that all is well; None where it says nothing."""
    environment = {"ORGANISM_OPS_PORT": str(service.ops_port)}
    done = subprocess.run([sys.executable, "-I", "-S", PROBE], env=environment, capture_output=True, text=True)
    return done.returncode, None if done.stdout.startswith("no answer") else json.loads(done.stdout)["ok"]


def states(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["state"] for check in report["checks"]}


async def test_services_say_what_they_lack(fleet: Fleet, own_broker: Broker, databases: OwnDatabases) -> None:
    gateway, router, usage, worker = fleet.services
    for service in fleet.services:
        for path in ("/livez", "/readyz"):
            report = await told(service, path)
            assert (report["status"], report["ok"], report["phase"]) == (200, True, "running")
            assert report["checks"]
            assert "127.0.0.1" not in str(report)
    assert (await at(f"{gateway.url}/readyz")).json().keys() == {"ok", "phase", "checks"}
    assert command("health", ORGANISM_OPS_PORT=str(router.ops_port)).returncode == 0
    assert command("health", "--live", gateway.url).stdout == "alive\n"
    assert probed(router) == (0, True)

    await asyncio.to_thread(own_broker.node.kill)
    await until_ready_are(fleet, "gateway")
    assert states(await told(gateway, "/readyz"))["broker"] == "down"
    assert states(await told(router, "/readyz")) == {
        "broker": "down",
        "database": "up",
        "ingress": "down",
        "dead": "down",
        "notices": "down",
    }
    asked = command("health", router.ops_url)
    assert (asked.returncode, asked.stderr.startswith("not ready: broker down")) == (1, True)
    assert probed(router) == (1, False)
    own_broker.node.start()
    await until_ready_are(fleet, *SERVICES)

    databases.server.suspend()
    try:
        await until_ready_are(fleet, "agent-worker")
        problem = await at(f"{gateway.url}/readyz")
        assert (problem.status_code, problem.headers["content-type"]) == (503, "application/problem+json")
        assert (problem.json()["code"], problem.json()["detail"]) == ("not-ready", "database down")
        assert (await at(f"{gateway.url}/livez")).status_code == 200
    finally:
        databases.server.resume()
    await until_ready_are(fleet, *SERVICES)

    # An event loop that hangs cannot answer.
    os.kill(worker.process.pid, signal.SIGSTOP)
    assert worker.says("/livez") is None
    assert command("health", "--live", worker.ops_url).returncode == 1
    assert probed(worker) == (1, None)
    os.kill(worker.process.pid, signal.SIGCONT)
    assert (await told(worker, "/livez"))["status"] == 200

    # A worker without a child that could run something is not ready.
    await kill_children(worker)
    await until_ready_are(fleet, *SERVICES)
    assert usage.alive


async def kill_children(worker: Service) -> None:
    for child in psutil.Process(worker.process.pid).children():
        child.kill()

    async def noticed() -> bool:
        report = await told(worker, "/readyz")
        return (report["status"], states(report)["child"]) == (503, "down")

    await until(noticed)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def stuck(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Health, Clock]]:
    """A ledger whose booking hangs in one step: somebody else has locked what it needs."""
    organism, clock, stop = load_organism(Gated(tmp_path, "stuck").file), Clock(), asyncio.Event()
    health, broker, db = Health(clock), MemoryBroker(), Database.connect(database_url)
    bus, other = broker.connect(), broker.connect()
    locker = await asyncpg.connect(database_url)
    usage = asyncio.create_task(run_usage(bus, db, organism, stop=stop, instance="one", health=health))
    try:
        await until(lambda: ready(health))
        message = await handled_message(db, agent="gated")
        async with locker.transaction():
            await locker.execute("lock table budgets in access exclusive mode")
            await other.publish([Outgoing("", Names("stuck").usage, ask(message).model_dump_json().encode())])
            await until(lambda: waits_for_lock(locker))
            yield health, clock
    finally:
        stop.set()
        await usage
        await locker.close()
        await db.close()


async def ready(health: Health) -> bool:
    return health.ready().ok


async def waits_for_lock(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(await connection.fetchval("select count(*) from pg_locks where not granted"))


async def test_a_loop_that_hangs_in_one_step_is_not_alive(stuck: tuple[Health, Clock]) -> None:
    health, clock = stuck
    async with ops_server(health, "127.0.0.1", 0) as port, httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
        clock.now += STEP_LIMIT + 1
        answer = await client.get(f"http://127.0.0.1:{port}/livez")
        consuming = sorted(state for name, state in states(answer.json()).items() if name.startswith("usage-"))
        # One has the batch; the others wait until it is booked, which may take for ever.
        assert (answer.status_code, consuming.count("late"), len(set(consuming))) == (503, 1, 2)


def test_asking_nobody_is_an_error() -> None:
    nobody = command("health", f"http://127.0.0.1:{free_port()}")
    assert (nobody.returncode, "no answer" in nobody.stderr) == (1, True)
    unset = command("health")
    assert (unset.returncode, "ORGANISM_OPS_PORT is not set" in unset.stderr) == (2, True)
