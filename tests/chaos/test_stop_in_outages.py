"""A service that is asked to stop while its broker or its database is gone or silent ends before Docker kills it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.integration.ledger_support import ask
from tests.support.broker import Broker, start_broker, unique_organism
from tests.support.fleet import Fleet, Service
from tests.support.gated import Gated
from tests.support.postgres import OwnDatabases
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.storage.schema import migrate

# Docker kills after 10 seconds.
LIMIT = 9.5
SERVICES = ("gateway", "router", "usage", "agent-worker")
OUTAGES = ("broker gone", "broker silent", "database gone", "database silent", "both silent")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]


class Ground:
    """A broker and a database to take away."""

    def __init__(self) -> None:
        self.broker: Broker = start_broker(own=True)
        self.databases = OwnDatabases(durable=False, migrate=migrate)

    @asynccontextmanager
    async def without(self, what: str) -> AsyncIterator[None]:
        """Take away what is named, and bring it back."""
        node, server = self.broker.node, self.databases.server
        ways: dict[str, tuple[list[Callable[[], None]], list[Callable[[], None]]]] = {
            "broker gone": ([node.kill], [node.start]),
            "broker silent": ([node.suspend], [node.resume]),
            "database gone": ([server.kill], [server.start]),
            "database silent": ([server.suspend], [server.resume]),
            "both silent": ([node.suspend, server.suspend], [node.resume, server.resume]),
        }
        take, give = ways[what]
        try:
            for step in take:
                step()
            yield
        finally:
            for step in give:
                step()

    def close(self) -> None:
        self.broker.close()
        self.databases.close()


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    ground.close()


@pytest.fixture
def organism(tmp_path: Path) -> Gated:
    return Gated(tmp_path, unique_organism())


@pytest.fixture
def fleet(ground: Ground, organism: Gated, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(organism.file, ground.broker.amqp_url, ground.databases.create_database(), tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture
async def bus(ground: Ground, organism: Gated) -> AsyncIterator[Bus]:
    bus = await connect_bus(ground.broker.amqp_url, name="test")
    await bus.declare(organism_topology(organism.names.organism, ["gated", "blocked"]))
    yield bus
    await bus.close()


async def in_hand(service: Service, organism: Gated, bus: Bus, outage: str) -> asyncio.Task[httpx.Response] | None:
    """Give the service something that it cannot finish now, as far as the outage lets it through."""
    if service.name == "gateway":
        return asyncio.create_task(inject(service.url))
    sent = {
        "router": Outgoing("", organism.names.ingress, b"junk"),
        "usage": Outgoing("", organism.names.usage, ask(uuid4()).model_dump_json().encode()),
    }
    if service.name in sent and outage.startswith("database"):
        assert await bus.publish([sent[service.name]]) == [Published.CONFIRMED]
    return None


async def inject(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=30.0) as client:
        return await client.post(f"{url}/api/v1/inject", json={"to": "gated", "payload": {"text": "one"}})


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("name", SERVICES)
async def test_it_ends_in_time_and_by_itself(
    ground: Ground, fleet: Fleet, organism: Gated, bus: Bus, name: str, outage: str
) -> None:
    (service,) = fleet.start(name)
    service.wait_ready()
    if name == "agent-worker":
        await bus.publish([organism.sent(organism.assignment("for-ever"))])
        organism.wait_started(1)
    async with ground.without(outage):
        request = await in_hand(service, organism, bus, outage)
        # Whatever it has in hand is on its way: there is nothing to be seen from outside that would tell.
        await asyncio.sleep(0.5)
        status, seconds = await asyncio.to_thread(service.terminate)
        if request is not None:
            accepted = outage.startswith("broker")
            assert (await request).status_code == (httpx.codes.OK if accepted else httpx.codes.SERVICE_UNAVAILABLE)
    said = service.log.read_text()
    print(f"{name}, {outage}: {seconds:.1f} s")
    assert (status, seconds < LIMIT, "stop_cut_short" in said) == (0, True, False), said
    assert "Traceback" not in said, said
