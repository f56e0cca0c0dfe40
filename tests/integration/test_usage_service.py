"""The usage service on the bus: in memory and on RabbitMQ, one and two of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import ask, check_books, handled_message, numbers, used
from xml_pipeline.ledger.service import run_usage
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.messages import EventFrame, HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Binding, Names, organism_topology
from xml_pipeline.organism.model import Organism
from xml_pipeline.storage import organism_state
from xml_pipeline.storage.database import Database

Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture(params=["memory", "rabbitmq"])
def connect(request: pytest.FixtureRequest) -> Connect:
    if request.param == "rabbitmq":
        url = request.getfixturevalue("amqp_url")
        return lambda: connect_bus(url, name="test")
    broker = MemoryBroker()

    async def in_memory() -> Bus:
        return broker.connect()

    return in_memory


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


@dataclass
class Client:
    """A worker's side of the ledger, and a listener to the feed."""

    bus: Bus
    names: Names
    replies: Consumer
    feed: Consumer
    events: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, *messages: HoldRequest | UsageEvent | HoldRelease | bytes) -> None:
        bodies = [m if isinstance(m, bytes) else m.model_dump_json().encode() for m in messages]
        await self.bus.publish(
            [Outgoing("", self.names.usage, body, reply_to=self.replies.reply_address) for body in bodies]
        )

    async def receive(self, count: int) -> list[HoldReply]:
        replies: list[HoldReply] = []
        async with asyncio.timeout(20):
            while len(replies) < count:
                replies += [HoldReply.model_validate_json(got.body) for got in await self.replies.batch(count)]
        return replies

    async def event(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(20):
            while True:
                for position, event in enumerate(self.events):
                    if event["event"] == name:
                        return self.events.pop(position)
                for got in await self.feed.batch(100):
                    self.events += EventFrame.model_validate_json(got.body).events


@asynccontextmanager
async def running(
    connect: Connect, db: Database, name: str, *, services: int = 1, limit: int = 1000
) -> AsyncIterator[Client]:
    organism = Organism(name=name, listeners={}, max_tokens_per_thread=limit)
    stop, buses = asyncio.Event(), [await connect() for _ in range(services + 1)]
    bus, names = buses[0], Names(name)
    await bus.declare(organism_topology(name, []))
    client = Client(bus, names, await bus.subscribe([]), await bus.subscribe([Binding(names.events, "", "feed.usage")]))
    runs = [
        asyncio.create_task(run_usage(own, db, organism, stop=stop, instance=f"usage-{number}"))
        for number, own in enumerate(buses[1:])
    ]
    try:
        yield client
    finally:
        stop.set()
        await asyncio.gather(*runs)
        for each in buses:
            await each.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_hold_use_settle(connect: Connect, db: Database, organism_name: str) -> None:
    thread = uuid4()
    message = await handled_message(db, thread)
    async with running(connect, db, organism_name) as client:
        request = ask(message, prompt=700, completion=100)
        await client.send(request)
        (reply,) = await client.receive(1)
        assert (reply.call_id, reply.state, reply.remaining) == (request.call_id, "granted", 200)
        await client.send(used(message, request.call_id, prompt=700, completion=60))
        usage = await client.event("usage")
        assert usage["threadId"] == str(thread)
        assert (usage["agentId"], usage["totalTokens"]) == ("greeter", 760)
        assert usage["cost"] == pytest.approx(0.003)
        budget = await client.event("budget")
        assert (budget["threshold"], budget["percentUsed"], budget["isExhausted"]) == (75, 76.0, False)
        await client.send(ask(message, prompt=300))
        (reply,) = await client.receive(1)
        assert (reply.state, reply.remaining) == ("denied", 240)
    await check_books(db)


async def test_two_services_book_each_call_once(connect: Connect, db: Database, organism_name: str) -> None:
    handled = [await handled_message(db) for _ in range(5)]
    async with running(connect, db, organism_name, services=2, limit=100_000) as client:
        requests = [ask(message) for message in handled for _ in range(20)]
        await client.send(*requests * 2)
        granted = {reply.call_id for reply in await client.receive(200) if reply.state == "granted"}
        assert granted == {request.call_id for request in requests}
        events = [used(request.message_id, request.call_id) for request in requests]
        await client.send(*events * 3)

        async def all_booked() -> bool:
            return await numbers(db, "select (select count(*) from usage_events), count(*) from holds") == (100, 0)

        await until(all_booked)
    assert await numbers(db, "select count(*), sum(prompt_tokens) from usage_events") == (100, 1000)
    await check_books(db)


@pytest.mark.parametrize(
    "poison",
    [
        b"\xff\x00",
        b"{}",
        b'{"kind":"usage"}',
        json.dumps({"kind": "release", "call_id": "x"}).encode(),
        used(uuid4(), uuid4()).model_dump_json().encode().replace(b"grok", b"gr\\u0000k"),
        used(uuid4(), uuid4(), prompt=10**30).model_dump_json().encode(),
        used(uuid4(), uuid4()).model_dump_json().encode(),
    ],
)
async def test_what_cannot_be_booked_is_kept_and_the_rest_goes_on(
    db: Database, organism_name: str, poison: bytes
) -> None:
    broker = MemoryBroker()

    async def connect() -> Bus:
        return broker.connect()

    message = await handled_message(db)
    async with running(connect, db, organism_name) as client:
        request = ask(message)
        await client.send(poison, request)
        (reply,) = await client.receive(1)
        assert reply.state == "granted"
        await client.send(HoldRelease(call_id=request.call_id))

        async def buried() -> bool:
            return await numbers(db, "select count(*) from dead_letters where code = 'usage-refused'") == (1,)

        await until(buried)
    body, reason = await numbers(db, "select body, reason <> '' from dead_letters")
    assert (body, reason) == (poison, True)


async def test_one_message_that_the_database_refuses_does_not_spoil_its_batch(db: Database, organism_name: str) -> None:
    broker = MemoryBroker()

    async def connect() -> Bus:
        return broker.connect()

    async with db.begin() as connection:
        await connection.execute(text("alter table usage_events add constraint taste check (prompt_tokens <> 13)"))
    message = await handled_message(db)
    requests = [ask(message, prompt=20, completion=0) for _ in range(20)]
    events = [used(message, request.call_id, prompt=4 + place) for place, request in enumerate(requests)]
    async with running(connect, db, organism_name) as client:
        await client.send(*requests)
        await client.receive(20)
        await client.send(*events)

        async def all_but_one_settled() -> bool:
            return await numbers(db, "select count(*) from usage_events") == (19,)

        await until(all_but_one_settled)
        await client.send(HoldRelease(call_id=requests[9].call_id))
    assert await numbers(db, "select count(*) from dead_letters where reason like '%taste%'") == (1,)
    await check_books(db)


async def test_two_who_claim_one_call_at_the_same_time_get_one_hold(
    connect: Connect, db: Database, organism_name: str
) -> None:
    pairs = [(await handled_message(db), await handled_message(db), uuid4()) for _ in range(20)]
    requests = [ask(message, call=call) for *both, call in pairs for message in both]
    async with running(connect, db, organism_name, services=2) as client:
        for start in range(0, len(requests), 2):
            await client.send(*requests[start : start + 2])
        assert {reply.state for reply in await client.receive(40)} == {"granted"}
        assert await numbers(db, "select count(*) from holds") == (20,)
        await client.send(*(HoldRelease(call_id=call) for *_, call in pairs))
    await check_books(db)


async def test_a_hold_that_nobody_settles_expires(connect: Connect, db: Database, organism_name: str) -> None:
    message = await handled_message(db)
    async with running(connect, db, organism_name) as client:
        request = ask(message).model_copy(update={"lifetime": 0.1})
        await client.send(request)
        await client.receive(1)
        usage = await client.event("usage")
        assert (usage["kind"], usage["totalTokens"]) == ("expired", 100)
        await client.send(used(message, request.call_id))
        usage = await client.event("usage")
        assert (usage["kind"], usage["totalTokens"]) == ("measured", 15)
    await check_books(db)


async def test_goes_on_when_broker_and_database_are_back(db: Database, organism_name: str) -> None:
    broker = MemoryBroker()

    async def connect() -> Bus:
        return broker.connect()

    message = await handled_message(db)
    async with running(connect, db, organism_name) as client:
        request = ask(message)
        await client.send(request)
        await client.receive(1)
        broker.drop()
        async with db.begin() as connection:
            await connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where pid <> pg_backend_pid() and datname = current_database()"
                )
            )
        await client.send(used(message, request.call_id))
        assert (await client.event("usage"))["kind"] == "measured"
    await check_books(db)


async def test_stops_when_the_organism_is_asked_to_and_says_that_it_lives(db: Database, organism_name: str) -> None:
    bus = MemoryBroker().connect()
    names = Names(organism_name)
    await bus.declare(organism_topology(organism_name, []))
    beats = await bus.subscribe([Binding(names.events, "", "heartbeat.usage")])
    organism = Organism(name=organism_name, listeners={})
    run = asyncio.create_task(run_usage(bus, db, organism, stop=asyncio.Event(), instance="usage-1"))
    async with asyncio.timeout(20):
        (beat, *_) = await beats.batch(1)
        assert json.loads(beat.body)["instance"] == "usage-1"
        async with db.begin() as connection:
            await organism_state.request_stop(connection, actor="test")
        await run
    await bus.close()
