"""A broker out of memory takes no publishes: they end as unknown, take no memory here, and go on when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.contract.bus_hub import bodies, eventually, receive
from tests.support.broker import Broker
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.rabbit import RabbitBus, connect_rabbit
from xml_pipeline.message_bus.topology import Names, organism_topology

NOTHING, PLENTY = "0.0000001", "0.6"
BODY = b"x" * 10_000
# What may be on its way into the socket when the broker says no: about one write, and what the transport holds.
MOST_BUFFERED = 2 * 1024 * 1024


@pytest.fixture
async def bus(own_broker: Broker, organism_name: str) -> AsyncIterator[RabbitBus]:
    bus = await connect_rabbit(own_broker.amqp_url, name="under alarm")
    await bus.declare(organism_topology(organism_name, []))
    yield bus
    await bus.close()


async def set_memory(broker: Broker, share: str) -> None:
    await asyncio.to_thread(broker.node.control, "set_vm_memory_high_watermark", share)


def buffered(bus: RabbitBus) -> int:
    connection = bus._outgoing._connection  # the test looks where no user does
    assert connection is not None
    assert connection.tap.transport is not None
    return connection.tap.transport.get_write_buffer_size()


async def test_publishes_wait_outside_the_socket_and_consumers_go_on(
    own_broker: Broker, bus: RabbitBus, organism_name: str
) -> None:
    queue = Names(organism_name).ingress
    consumer = await bus.consume(queue, prefetch=10)
    before = [Outgoing("", queue, b"%d" % number) for number in range(50)]
    assert await bus.publish(before) == [Published.CONFIRMED] * 50
    await set_memory(own_broker, NOTHING)
    seen: set[Published] = set()
    for _ in range(10):
        many = [bus.publish([Outgoing("", queue, BODY)] * 100, timeout=0.3) for _ in range(20)]
        for outcomes in await asyncio.gather(*many):
            seen.update(outcomes)
        assert buffered(bus) < MOST_BUFFERED
    assert seen == {Published.UNKNOWN}
    consumed = [body for _ in range(50) for body in bodies(await receive(consumer, 1, ack=True))]
    assert consumed == [message.body for message in before]
    assert bus.connected
    await set_memory(own_broker, PLENTY)

    async def publishes_again() -> bool:
        return await bus.publish([Outgoing("", queue, b"after")]) == [Published.CONFIRMED]

    await eventually(publishes_again, "a publish that is confirmed")
    arrived: list[bytes] = []
    async with asyncio.timeout(30.0):
        while b"after" not in arrived:
            arrived += bodies(await receive(consumer, 1, ack=True))
    # Of the two hundred thousand that ended as unknown, those that were in the socket came; no more than fits there.
    assert sum(len(body) for body in arrived) < 4 * MOST_BUFFERED


async def test_a_bus_can_be_closed_while_the_broker_takes_nothing(own_broker: Broker, organism_name: str) -> None:
    bus = await connect_rabbit(own_broker.amqp_url, name="to be closed")
    await bus.declare(organism_topology(organism_name, []))
    await bus.consume(Names(organism_name).ingress, prefetch=10)
    await set_memory(own_broker, NOTHING)
    outgoing = [Outgoing("", Names(organism_name).ingress, BODY)] * 100
    await asyncio.gather(*(bus.publish(outgoing, timeout=0.3) for _ in range(20)))
    async with asyncio.timeout(10.0):
        await bus.close()
