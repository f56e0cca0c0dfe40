"""Services that are asked to stop while they work: what is in hand is finished or handed on, nothing is done twice."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.chaos.load import until
from tests.contract.bus_hub import receive
from tests.integration.ledger_support import handled_message, used
from tests.support.fleet import HOST, Fleet, Service
from tests.support.gated import Gated
from xml_pipeline.envelope.codec import decode_turn
from xml_pipeline.envelope.model import Turn
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming, Outgoing, Published
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.storage.database import Database

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def organism(tmp_path: Path, organism_name: str) -> Gated:
    return Gated(tmp_path, organism_name)


@pytest.fixture
def fleet(organism: Gated, amqp_url: str, database_url: str, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(organism.file, amqp_url, database_url, tmp_path)
    yield fleet
    fleet.stop()


@pytest.fixture
async def bus(organism: Gated, amqp_url: str) -> AsyncIterator[Bus]:
    bus = await connect_bus(amqp_url, name="test")
    await bus.declare(organism_topology(organism.names.organism, ["gated", "blocked"]))
    yield bus
    await bus.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def started(fleet: Fleet, name: str) -> Service:
    (service,) = fleet.start(name)
    await asyncio.to_thread(service.wait_ready)
    return service


async def left_in(bus: Bus, queue: str) -> list[Incoming]:
    """All that is ready in a queue."""
    count = await bus.depth(queue)
    if not count:
        return []
    consumer = await bus.consume(queue, prefetch=count)
    left = await receive(consumer, count, ack=True)
    await consumer.close()
    return left


async def test_a_worker_reports_what_ends_in_time_and_hands_on_the_rest(
    fleet: Fleet, organism: Gated, bus: Bus
) -> None:
    worker = await started(fleet, "agent-worker")
    ends, stays, blocks = (
        organism.assignment("ends"),
        organism.assignment("stays"),
        organism.assignment("blocks", "blocked"),
    )
    await bus.publish([organism.sent(one) for one in (ends, stays)])
    await asyncio.to_thread(organism.wait_started, 2)
    children = psutil.Process(worker.process.pid).children()
    heir = await started(fleet, "agent-worker")

    stopping = asyncio.create_task(asyncio.to_thread(worker.terminate))
    await until(lambda: says(worker, "/readyz", 503))
    assert await says(worker, "/livez", 200)
    # What comes now goes to the other one, at once.
    late = organism.assignment("late")
    await bus.publish([organism.sent(late)])
    await asyncio.to_thread(organism.wait_started, 3)
    organism.open("late")
    organism.open("ends")
    ingress = await bus.consume(organism.names.ingress, prefetch=100)
    turns = await next_turns(ingress, 2)
    assert {turn.message_id for turn in turns} == {ends.message_id, late.message_id}
    status, seconds = await stopping
    assert (status, seconds < 9.5) == (0, True)
    assert not any(child.is_running() for child in children)

    # Handed on when the grace was over, as the same attempt.
    await asyncio.to_thread(organism.wait_started, 4)
    assert organism.started().count("ends") == 1
    organism.open("stays")
    (turn,) = await next_turns(ingress, 1)
    assert (turn.message_id, turn.attempt) == (stays.message_id, 1)

    # One whose event loop is held up ends as well.
    await bus.publish([organism.sent(blocks)])
    await asyncio.to_thread(organism.wait_started, 5)
    status, seconds = await asyncio.to_thread(heir.terminate)
    assert (status, seconds < 9.5) == (0, True)
    await ingress.close()


async def says(service: Service, path: str, status: int) -> bool:
    answer = await asyncio.to_thread(service.says, path)
    return answer is not None and answer.status_code == status


async def next_turns(ingress: Consumer, count: int) -> list[Turn]:
    return [decode_turn(one.body) for one in await receive(ingress, count, ack=True)]


async def test_a_router_under_load_acknowledges_all_that_it_committed(
    fleet: Fleet, organism: Gated, bus: Bus, database: asyncpg.Connection[asyncpg.Record]
) -> None:
    gateway, router = await started(fleet, "gateway"), await started(fleet, "router")
    injecting = asyncio.create_task(inject_many(gateway.url, 800))
    await until(lambda: more_than(database, "select count(*) from messages", 200))
    status, seconds = await asyncio.to_thread(router.terminate)
    assert (status, seconds < 9.5) == (0, True)
    accepted = await injecting
    left = await left_in(bus, organism.names.ingress)
    ids = {UUID(str(one.headers["message-id"])) for one in left}
    taken = {row[0] for row in await database.fetch("select id from messages")}
    assert taken
    assert ids
    assert (ids & taken, ids | taken) == (set(), accepted)
    # What it sent out is noted: no other router sends it again.
    assert await database.fetchval("select count(*) from messages where state = 'out' and not confirmed") == 0


async def inject_many(url: str, count: int) -> set[UUID]:
    async with httpx.AsyncClient(timeout=60.0, limits=httpx.Limits(max_connections=50)) as client:

        async def one(number: int) -> UUID:
            answer = await client.post(f"{url}/api/v1/inject", json={"to": "gated", "payload": {"text": f"{number}"}})
            assert answer.status_code == httpx.codes.OK, answer.text
            return UUID(answer.json()["messageId"])

        return set(await asyncio.gather(*(one(number) for number in range(count))))


async def more_than(database: asyncpg.Connection[asyncpg.Record], query: str, count: int) -> bool:
    return int(await database.fetchval(query)) > count


async def test_a_ledger_under_load_acknowledges_all_that_it_booked(
    fleet: Fleet, organism: Gated, bus: Bus, database: asyncpg.Connection[asyncpg.Record], database_url: str
) -> None:
    usage = await started(fleet, "usage")
    db = Database.connect(database_url)
    message = await handled_message(db, agent="gated")
    await db.close()
    calls = [uuid4() for _ in range(20_000)]
    events = [used(message, call).model_dump_json().encode() for call in calls]
    publishing = asyncio.create_task(publish_slowly(bus, organism.names.usage, events))
    await until(lambda: more_than(database, "select count(*) from usage_events", 1000))
    status, seconds = await asyncio.to_thread(usage.terminate)
    assert (status, seconds < 9.5) == (0, True)
    await publishing
    left = {UsageEvent.model_validate_json(one.body).call_id for one in await left_in(bus, organism.names.usage)}
    booked = {row[0] for row in await database.fetch("select call_id from usage_events")}
    assert (left & booked, left | booked) == (set(), set(calls))


async def publish_slowly(bus: Bus, queue: str, bodies: list[bytes]) -> None:
    for place in range(0, len(bodies), 250):
        part = [Outgoing("", queue, body) for body in bodies[place : place + 250]]
        assert set(await bus.publish(part, timeout=30)) == {Published.CONFIRMED}


async def test_a_gateway_answers_what_is_under_way_and_publishes_what_it_accepted(
    fleet: Fleet, organism: Gated, bus: Bus
) -> None:
    gateway = await started(fleet, "gateway")
    async with httpx.AsyncClient(timeout=60.0) as client, connect(f"ws://{HOST}:{gateway.port}/ws") as socket_:
        await socket_.recv()
        inject = {"to": "gated", "payload": {"text": "one"}}
        # Nobody routes, so the answer waits for its time to be up.
        waiting = asyncio.create_task(
            client.post(f"{gateway.url}/api/v1/inject", json=inject, headers={"Prefer": "wait=60"})
        )
        injecting = asyncio.create_task(inject_until_refused(gateway.url))
        await until(lambda: depth_is_over(bus, organism.names.ingress, 50))
        status, seconds = await asyncio.to_thread(gateway.terminate)
        assert (status, seconds < 9.5) == (0, True)
        answer = await waiting
        assert (answer.status_code, answer.json().get("reply")) == (httpx.codes.OK, None)
        accepted = {answer.json()["messageId"], *await injecting}
        with pytest.raises(ConnectionClosed) as closed:
            await read_to_the_end(socket_)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (1001, 1012)
    with pytest.raises(ConnectionRefusedError), socket.create_connection((HOST, gateway.port or 0), timeout=5):
        pass
    published = {str(one.headers["message-id"]) for one in await left_in(bus, organism.names.ingress)}
    assert accepted <= published


async def inject_until_refused(url: str) -> set[str]:
    accepted: set[str] = set()

    async def one(client: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await client.post(f"{url}/api/v1/inject", json={"to": "gated", "payload": {"text": "x"}})
            except httpx.TransportError:
                return
            assert answer.status_code == httpx.codes.OK, answer.text
            accepted.add(answer.json()["messageId"])

    async with httpx.AsyncClient(timeout=30.0) as client:
        await asyncio.gather(*(one(client) for _ in range(10)))
    return accepted


async def depth_is_over(bus: Bus, queue: str, count: int) -> bool:
    return (await bus.depth(queue) or 0) > count


async def read_to_the_end(socket_: ClientConnection) -> None:
    while True:
        await socket_.recv()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["gateway", "router", "usage", "agent-worker"])
async def test_a_stop_while_it_starts_ends_it_with_status_0(fleet: Fleet, name: str, number: signal.Signals) -> None:
    """While it imports, connects, declares, starts children: which of them the delays hit matters to none."""
    for delay in (0.0, 0.3, 0.6, 0.9, 1.3):
        (service,) = fleet.start(name)
        await until(lambda service=service: hears(service.process.pid, number))  # type: ignore[misc]
        await asyncio.sleep(delay)
        service.process.send_signal(number)
        assert await asyncio.to_thread(service.process.wait, 9.5) == 0, service.log.read_text()
        assert "Traceback" not in service.log.read_text()


async def hears(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = await asyncio.to_thread(Path(f"/proc/{pid}/status").read_text)
    (line,) = [line for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(line.split()[1], 16) & 1 << (number - 1))


@pytest.mark.parametrize("silent", ["ORGANISM_AMQP_URL", "ORGANISM_DATABASE_URL"])
async def test_a_stop_ends_who_waits_for_an_answer_at_its_start(fleet: Fleet, silent: str) -> None:
    with socket.create_server((HOST, 0)) as mute:
        scheme = "amqp" if "AMQP" in silent else "postgresql"
        fleet.environment = {silent: f"{scheme}://guest:guest@{HOST}:{mute.getsockname()[1]}/x"}
        (router,) = fleet.start("router")
        caller, _ = await asyncio.to_thread(mute.accept)
        assert await says(router, "/livez", 200)
        assert await says(router, "/readyz", 503)
        status, seconds = await asyncio.to_thread(router.terminate)
        caller.close()
    assert (status, seconds < 4) == (0, True), router.log.read_text()


async def test_a_second_signal_ends_it_at_once(fleet: Fleet, organism: Gated, bus: Bus) -> None:
    worker = await started(fleet, "agent-worker")
    await bus.publish([organism.sent(organism.assignment("stays"))])
    await asyncio.to_thread(organism.wait_started, 1)
    worker.process.terminate()
    await until(lambda: says(worker, "/readyz", 503))
    status, seconds = await asyncio.to_thread(worker.terminate)
    assert (status, seconds < 2) == (128 + signal.SIGTERM, True)
