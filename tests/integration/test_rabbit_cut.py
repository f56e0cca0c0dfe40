"""The bus behind a network that fails: what was confirmed arrives, and nothing needs a hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from aiormq.connection import FrameReceiver

from tests.contract.bus_hub import PATIENCE, RabbitHub, bodies, receive
from tests.contract.tcp_proxy import TcpProxy
from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.port import Consumer, Outgoing, Published
from xml_pipeline.message_bus.rabbit import RabbitBus, connect_rabbit
from xml_pipeline.message_bus.rabbit.link import Connection, Link, call
from xml_pipeline.message_bus.topology import Names, organism_topology

COUNT = 20_000
SOON = 20.0
BATCH = 50


@pytest.fixture
async def hub(amqp_url: str, organism_name: str) -> AsyncIterator[RabbitHub]:
    topology = organism_topology(organism_name, [])
    hub = RabbitHub(amqp_url, Names(organism_name), topology)
    await (await hub.connect()).declare(topology)
    yield hub
    await hub.close()


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[TcpProxy]:
    parts = urlsplit(amqp_url)
    proxy = TcpProxy(parts.hostname or "127.0.0.1", parts.port or 5672)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def bus(amqp_url: str, hub: RabbitHub, proxy: TcpProxy) -> AsyncIterator[RabbitBus]:
    place = urlsplit(amqp_url).netloc.rpartition("@")
    bus = await connect_rabbit(amqp_url.replace(place[2], f"127.0.0.1:{proxy.port}"), name="behind proxy")
    await bus.declare(organism_topology(hub.names.organism, []))
    yield bus
    await bus.close()


async def test_connections_cut_again_and_again_lose_nothing(hub: RabbitHub, proxy: TcpProxy, bus: RabbitBus) -> None:
    queue = hub.names.ingress
    consumer = await bus.consume(queue, prefetch=100)
    seen: set[bytes] = set()
    taking = asyncio.create_task(_take(consumer, seen))
    cutting = asyncio.create_task(_cut(proxy, random.Random(7)))
    try:
        async with asyncio.timeout(4 * PATIENCE):
            for start in range(0, COUNT, BATCH):
                await _publish_until_confirmed(bus, queue, [b"%d" % one for one in range(start, start + BATCH)])
            await taking
    finally:
        cutting.cancel()
        taking.cancel()
        await asyncio.gather(cutting, taking, return_exceptions=True)
    assert seen == {b"%d" % number for number in range(COUNT)}
    assert proxy.cuts > 3


async def test_swallowed_confirms_are_unknown_and_the_next_connection_is_fine(
    hub: RabbitHub, proxy: TcpProxy, bus: RabbitBus
) -> None:
    queue = hub.names.ingress
    assert await bus.publish([Outgoing("", queue, b"0")]) == [Published.CONFIRMED]
    proxy.swallow_answers = True
    assert await bus.publish([Outgoing("", queue, b"1")], timeout=0.3) == [Published.UNKNOWN]
    waiting = asyncio.create_task(bus.publish([Outgoing("", queue, b"2")], timeout=PATIENCE))
    await asyncio.sleep(0)
    proxy.swallow_answers = False
    proxy.cut()
    assert await waiting == [Published.UNKNOWN]
    assert await bus.publish([Outgoing("", queue, b"3")], timeout=PATIENCE) == [Published.CONFIRMED]
    direct = await (await hub.connect()).consume(queue, prefetch=10)
    arrived: list[bytes] = []
    while b"3" not in arrived:
        arrived += bodies(await receive(direct, 1, ack=True))
    assert {b"0", b"1", b"3"} <= set(arrived)


async def _publish_until_confirmed(bus: RabbitBus, queue: str, left: list[bytes]) -> None:
    while left:
        told = await bus.publish([Outgoing("", queue, body) for body in left])
        left = [body for body, outcome in zip(left, told, strict=True) if outcome is not Published.CONFIRMED]


async def _take(consumer: Consumer, seen: set[bytes]) -> None:
    while len(seen) < COUNT:
        taken = await consumer.batch(40)
        seen.update(bodies(taken))
        await consumer.ack(taken)


async def _cut(proxy: TcpProxy, chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.02, 0.2))
        proxy.cut()


async def test_who_hangs_up_before_he_says_anything_is_a_broker_that_is_gone() -> None:
    """A proxy whose broker is gone takes a connection and ends it: aiormq then lets a StopAsyncIteration out."""
    silent = asyncio.StreamReader()
    silent.feed_eof()
    with pytest.raises(BrokerUnavailable):
        await call(FrameReceiver(silent).get_frame())


async def test_a_link_goes_on_whatever_it_ran_into(proxy: TcpProxy, amqp_url: str) -> None:
    place = urlsplit(amqp_url).netloc.rpartition("@")
    opened = 0

    async def on_open(_: Connection) -> None:
        nonlocal opened
        opened += 1
        if opened == 2:
            raise LookupError("what nobody has thought of")

    link = Link(amqp_url.replace(place[2], f"127.0.0.1:{proxy.port}"), "behind proxy", on_open)
    await link.start()
    try:
        async with asyncio.timeout(SOON):
            first = await link.connection()
            proxy.cut()
            await first.lost.wait()
            assert await link.connection() is not first
        assert opened == 3
    finally:
        await link.close()
