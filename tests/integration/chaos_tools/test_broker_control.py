"""Alarms, purges and deletions on a RabbitMQ of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos.tools.broker_control import BrokerControl, QueueState, list_queues, memory_alarm
from tests.contract.bus_hub import RabbitHub, eventually, receive
from tests.support.broker import Broker, start_broker
from tests.support.processes import SupportError
from tests.support.rabbitmq_node import RabbitMQNode
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.topology import Names, organism_topology


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQNode]:
    own: Broker = start_broker(own=True)
    try:
        if not isinstance(own.node, RabbitMQNode):
            pytest.skip("the broker in Docker takes no rabbitmqctl from here")
        yield own.node
    finally:
        own.close()


@pytest.fixture
async def bus(node: RabbitMQNode, organism_name: str) -> AsyncIterator[Bus]:
    topology = organism_topology(organism_name, [])
    hub = RabbitHub(node.url, Names(organism_name), topology)
    bus = await hub.connect()
    await bus.declare(topology)
    yield bus
    await hub.close()


@pytest.fixture
def queue(organism_name: str) -> str:
    return Names(organism_name).ingress


async def test_what_waits_is_purged_and_counted(node: RabbitMQNode, bus: Bus, queue: str) -> None:
    control = BrokerControl(node.url)
    await fill(bus, queue, 3)
    await until_ready(control, queue, 3)
    assert await asyncio.to_thread(control.purge, queue) == 3
    await until_ready(control, queue, 0)


async def test_a_deleted_queue_is_not_there(node: RabbitMQNode, bus: Bus, queue: str) -> None:
    control = BrokerControl(node.url)
    await fill(bus, queue, 2)
    await until_ready(control, queue, 2)
    assert await asyncio.to_thread(control.delete, queue) == 2
    assert await states(control, queue, "never there") == {queue: None, "never there": None}
    assert await asyncio.to_thread(control.delete, queue) == 0
    with pytest.raises(SupportError, match="purge"):
        await asyncio.to_thread(control.purge, queue)


async def test_a_list_tells_what_is_delivered_and_not_acknowledged(node: RabbitMQNode, bus: Bus, queue: str) -> None:
    await fill(bus, queue, 5)
    consumer = await bus.consume(queue, prefetch=2)
    await receive(consumer, 2)

    async def listed() -> bool:
        found = (await asyncio.to_thread(list_queues, node))[queue]
        return (found.ready, found.unacknowledged, found.consumers) == (3, 2, 1)

    await eventually(listed, "3 ready, 2 delivered")
    assert await states(BrokerControl(node.url), queue) == {queue: QueueState(ready=3, consumers=1)}
    await consumer.close()


async def test_a_broker_out_of_memory_confirms_nothing_until_it_has_some(
    node: RabbitMQNode, bus: Bus, queue: str
) -> None:
    with memory_alarm(node):
        assert await bus.publish([message(queue)], timeout=1.0) != [Published.CONFIRMED]

    async def confirmed() -> bool:
        return await bus.publish([message(queue)], timeout=5.0) == [Published.CONFIRMED]

    await eventually(confirmed, "the broker takes messages again")


def test_a_broker_that_is_gone_is_an_error() -> None:
    with pytest.raises(SupportError, match="look at the queues"):
        BrokerControl("amqp://guest:guest@127.0.0.1:1/").queues(["any"])


async def fill(bus: Bus, queue: str, count: int) -> None:
    assert set(await bus.publish([message(queue)] * count)) == {Published.CONFIRMED}


async def until_ready(control: BrokerControl, queue: str, count: int) -> None:
    async def ready() -> bool:
        return await states(control, queue) == {queue: QueueState(ready=count, consumers=0)}

    await eventually(ready, f"{count} ready in {queue}")


async def states(control: BrokerControl, *names: str) -> dict[str, QueueState | None]:
    return await asyncio.to_thread(control.queues, names)


def message(queue: str) -> Outgoing:
    return Outgoing(exchange="", routing_key=queue, body=b"x")
