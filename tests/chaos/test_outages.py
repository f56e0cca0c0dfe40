"""A fleet whose broker or database goes away under load and comes back: nothing is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.chaos.load import active_threads, inject_all, read_ends, until
from tests.support.broker import Broker
from tests.support.fleet import ROOT, TWO_OF_EACH, Fleet, running
from tests.support.organisms import renamed
from tests.support.postgres import OwnDatabases
from xml_pipeline.storage.schema import migrate

DAN = {"name": "Dan"}
MESSAGES = 4

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.fixture
def databases() -> Iterator[OwnDatabases]:
    """A PostgreSQL of this test's own, to stop and start."""
    own = OwnDatabases(durable=True, migrate=migrate)
    yield own
    own.close()


@pytest.fixture
def fleet(own_broker: Broker, databases: OwnDatabases, organism_name: str, tmp_path: Path) -> Iterator[Fleet]:
    """Two of each service."""
    organism = renamed(ROOT / "examples" / "hello-world", organism_name, tmp_path / "organism")
    fleet = Fleet(organism, own_broker.amqp_url, databases.create_database(), tmp_path)
    with running(fleet, TWO_OF_EACH):
        yield fleet


async def test_while_the_broker_is_gone_injects_are_accepted_and_go_on_when_it_is_back(
    fleet: Fleet, own_broker: Broker
) -> None:
    await inject_all(fleet.urls(), "greeter", DAN, 20)
    await asyncio.to_thread(own_broker.node.kill)
    await until_health_says(fleet, broker="down")
    await inject_all(fleet.urls(), "greeter", DAN, 20)
    await asyncio.to_thread(own_broker.node.start)
    await every_thread_ends(fleet, 40)


async def test_a_broker_that_takes_no_publishes_refuses_no_inject_and_all_goes_on_after(
    fleet: Fleet, own_broker: Broker
) -> None:
    await inject_all(fleet.urls(), "greeter", DAN, 20)
    await asyncio.to_thread(own_broker.node.control, "set_vm_memory_high_watermark", "0.0000001")
    async with asyncio.timeout(10.0):
        await inject_all(fleet.urls(), "greeter", DAN, 100)
    await asyncio.to_thread(own_broker.node.control, "set_vm_memory_high_watermark", "0.6")
    await every_thread_ends(fleet, 120)


async def test_a_broker_that_comes_back_empty_loses_nothing(fleet: Fleet, own_broker: Broker) -> None:
    injecting = asyncio.create_task(inject_all(fleet.urls(), "greeter", DAN, 60))
    await asyncio.to_thread(own_broker.node.stop)
    await asyncio.to_thread(own_broker.node.wipe)
    await asyncio.to_thread(own_broker.node.start)
    await injecting
    await every_thread_ends(fleet, 60)


async def test_while_the_database_is_gone_the_api_says_when_to_come_back_and_nothing_is_lost(
    fleet: Fleet, databases: OwnDatabases
) -> None:
    await inject_all(fleet.urls(), "greeter", DAN, 30)
    await asyncio.to_thread(databases.server.kill)
    await until_refused(fleet)
    await asyncio.to_thread(databases.server.start)
    await until_accepted(fleet, 10)
    await every_thread_ends(fleet, 40)


async def until_health_says(fleet: Fleet, **state: str) -> None:
    async with httpx.AsyncClient(timeout=10.0) as client:

        async def all_say_so() -> bool:
            answers = [await client.get(f"{url}/health") for url in fleet.urls()]
            return all(state.items() <= answer.json().items() for answer in answers)

        await until(all_say_so)


async def until_refused(fleet: Fleet) -> None:
    """Both gateways answer 503, with a time to come back."""
    async with httpx.AsyncClient(timeout=30.0) as client:

        async def all_refuse() -> bool:
            answers = [await client.post(f"{url}/api/v1/inject", json=greeting()) for url in fleet.urls()]
            assert {answer.status_code for answer in answers} <= {httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE}
            return all(int(answer.headers.get("Retry-After", "0")) > 0 for answer in answers)

        await until(all_refuse)


async def until_accepted(fleet: Fleet, count: int) -> None:
    async with httpx.AsyncClient(timeout=30.0) as client:

        async def one_is_accepted() -> bool:
            return (await client.post(f"{fleet.urls()[0]}/api/v1/inject", json=greeting())).is_success

        for _ in range(count):
            await until(one_is_accepted)


async def every_thread_ends(fleet: Fleet, at_least: int) -> None:
    """Each thread has its four messages and one answer."""
    connection = await asyncpg.connect(fleet.database_url)
    try:

        async def none_is_active() -> bool:
            return await active_threads(connection) == 0

        await until(none_is_active)
        ends = await read_ends(connection)
    finally:
        await connection.close()
    assert ends.statuses.keys() == {"completed"}
    assert ends.statuses["completed"] >= at_least
    assert ends.counts.keys() == {MESSAGES}
    assert set(ends.answers.values()) == {1}
    assert ends.open_messages == ends.open_threads == 0


def greeting() -> dict[str, object]:
    return {"to": "greeter", "payload": DAN}
