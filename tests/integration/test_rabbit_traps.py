"""What RabbitMQ and its client libraries do behind one's back, each shown to be taken care of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiormq
import pytest

from tests.contract.bus_hub import PATIENCE, RabbitHub, bodies, eventually, receive
from tests.support.broker import Broker, start_broker
from tests.support.processes import free_port
from tests.support.rabbitmq_node import RabbitMQNode
from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.rabbit import RabbitBus, connect_rabbit
from xml_pipeline.message_bus.topology import DELIVERY_LIMIT, Names, Topology, organism_topology


@pytest.fixture
def topology(organism_name: str) -> Topology:
    return organism_topology(organism_name, ["greeter"])


@pytest.fixture
async def hub(amqp_url: str, organism_name: str, topology: Topology) -> AsyncIterator[RabbitHub]:
    hub = RabbitHub(amqp_url, Names(organism_name), topology)
    yield hub
    await hub.close()


@pytest.fixture
async def bus(hub: RabbitHub, topology: Topology) -> Bus:
    bus = await hub.connect()
    await bus.declare(topology)
    return bus


async def test_an_exchange_that_vanishes_takes_no_innocent_publishes_along(hub: RabbitHub, bus: Bus) -> None:
    names = hub.names
    await bus.publish([Outgoing(names.events, "feed.a", b"")])
    consumer = await bus.consume(names.ingress, prefetch=1000)
    await hub.delete_exchange(names.events)
    innocent = [Outgoing("", names.ingress, b"%d" % number) for number in range(300)]
    guilty = [Outgoing(names.events, "feed.a", b"")] * 10
    told, others = await asyncio.gather(bus.publish(innocent), bus.publish(guilty))
    assert told == [Published.CONFIRMED] * 300
    assert Published.CONFIRMED not in others
    assert bodies(await receive(consumer, 300)) == [one.body for one in innocent]


async def test_a_channel_that_the_broker_closes_is_opened_again(amqp_url: str, hub: RabbitHub, bus: Bus) -> None:
    consumer = await bus.consume(hub.names.ingress, prefetch=10)
    await bus.publish([Outgoing("", hub.names.ingress, b"1")])
    await receive(consumer, 1)
    # An ack for what was never delivered is an error of the channel.
    await consumer._channel.amqp.basic_ack(999_999)  # type: ignore[attr-defined]
    (again,) = await receive(consumer, 1, ack=True)
    assert (again.body, again.redelivered) == (b"1", True)
    assert consumer.healthy


async def test_a_quorum_queue_declared_again_at_once_is_consumed_again(
    amqp_url: str, hub: RabbitHub, bus: Bus, topology: Topology
) -> None:
    """RabbitMQ 3.10 does not tell its consumers that the queue was deleted."""
    consumer = await bus.consume(hub.names.ingress, prefetch=10)
    arguments: aiormq.abc.FieldTable = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": hub.names.dead,
    }
    async with aiormq.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(hub.names.ingress)
        await channel.queue_declare(hub.names.ingress, durable=True, arguments=arguments)
    assert await bus.publish([Outgoing("", hub.names.ingress, b"new")]) == [Published.CONFIRMED]
    assert bodies(await receive(consumer, 1)) == [b"new"]
    assert consumer.healthy


async def test_a_subscription_is_renewed_without_handling_anything_twice(hub: RabbitHub, bus: Bus) -> None:
    consumer = await bus.consume(hub.names.ingress, prefetch=10)
    await bus.publish([Outgoing("", hub.names.ingress, b"%d" % number) for number in range(4)])
    first = await receive(consumer, 1)
    await consumer._subscribe_again()  # type: ignore[attr-defined]
    rest = await receive(consumer, 3)
    await consumer.ack([*rest, *first])
    await bus.publish([Outgoing("", hub.names.ingress, b"last")])
    assert bodies(await receive(consumer, 1, ack=True)) == [b"last"]
    await consumer.close()
    other = await bus.consume(hub.names.ingress, prefetch=10)
    await bus.publish([Outgoing("", hub.names.ingress, b"very last")])
    assert bodies(await receive(other, 1)) == [b"very last"]


async def test_redelivery_without_end_loses_nothing(hub: RabbitHub, bus: Bus) -> None:
    """A delivery limit within reach would drop messages of workers that die."""
    consumer = await bus.consume(hub.names.ingress, prefetch=10)
    await bus.publish([Outgoing("", hub.names.ingress, b"1")])
    for _ in range(60):
        await consumer.reject(await receive(consumer, 1), requeue=True)
    assert bodies(await receive(consumer, 1, ack=True)) == [b"1"]


async def test_junk_of_other_clients_is_read(amqp_url: str, hub: RabbitHub, bus: Bus) -> None:
    consumer = await bus.consume(hub.names.ingress, prefetch=10)
    headers: aiormq.abc.FieldTable = {"a": True, "b": [1, {"c": None}], "d": {"e": 1.5}, "text": "t", "small": 7}
    async with aiormq.connect(amqp_url) as connection:
        channel = await connection.channel()
        properties = aiormq.spec.Basic.Properties(
            content_type="x/y", content_encoding="z", headers=headers, priority=3, expiration="60000", app_id="other"
        )
        await channel.basic_publish(b"junk", routing_key=hub.names.ingress, properties=properties)
    (got,) = await receive(consumer, 1)
    assert (got.body, dict(got.headers)) == (b"junk", {"text": "t", "small": 7})


async def test_closing_leaves_nothing_behind(amqp_url: str, organism_name: str, topology: Topology) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = _open_files(), asyncio.all_tasks()
    for _ in range(5):
        hub = RabbitHub(amqp_url, Names(organism_name), topology)
        bus = await hub.connect()
        await bus.declare(topology)
        consumer = await bus.consume(hub.names.ingress, prefetch=5)
        await bus.subscribe([])
        await bus.publish([Outgoing("", hub.names.ingress, b"1"), Outgoing("", "nowhere", b"2")])
        await receive(consumer, 1)
        await hub.close()

    async def all_gone() -> bool:
        return (_open_files(), asyncio.all_tasks()) == before

    await eventually(all_gone, "no task and no file is left")
    assert complaints == []


async def test_a_broker_that_is_not_there_is_one_clear_line(amqp_url: str) -> None:
    port = free_port()
    with pytest.raises(BrokerUnavailable, match=f"RabbitMQ at 127.0.0.1:{port} does not answer") as nobody:
        await connect_bus(f"amqp://guest:secret@127.0.0.1:{port}/", name="test")
    with pytest.raises(BrokerUnavailable, match="refused the login") as refused:
        await connect_bus(amqp_url.replace("guest:guest", "guest:secret"), name="test")
    for raised in (nobody, refused):
        assert "secret" not in str(raised.value)
        assert "\n" not in str(raised.value)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(scope="module")
def own() -> Iterator[Broker]:
    broker = start_broker(own=True)
    yield broker
    broker.close()


@pytest.fixture
async def own_bus(own: Broker, topology: Topology) -> AsyncIterator[RabbitBus]:
    bus = await connect_rabbit(own.amqp_url, name="test")
    await bus.declare(topology)
    yield bus
    await bus.close()


async def test_a_publish_that_timed_out_is_unknown_and_may_still_arrive(
    own: Broker, own_bus: RabbitBus, organism_name: str
) -> None:
    queue = Names(organism_name).ingress
    consumer = await own_bus.consume(queue, prefetch=10)
    assert await own_bus.publish([Outgoing("", queue, b"0")]) == [Published.CONFIRMED]
    await receive(consumer, 1, ack=True)
    own.node.suspend()
    try:
        assert await own_bus.publish([Outgoing("", queue, b"1")], timeout=0.3) == [Published.UNKNOWN]
    finally:
        own.node.resume()
    assert bodies(await receive(consumer, 1)) == [b"1"]
    assert await own_bus.publish([Outgoing("", queue, b"2")], timeout=PATIENCE) == [Published.CONFIRMED]


@pytest.mark.slow
async def test_a_broker_that_falls_silent_is_left_and_found_again(
    own: Broker, own_bus: RabbitBus, organism_name: str
) -> None:
    queue = Names(organism_name).ingress
    consumer = await own_bus.consume(queue, prefetch=10)
    own.node.suspend()

    async def gone() -> bool:
        return not own_bus.connected and not consumer.healthy

    try:
        await eventually(gone, "silence is noticed")
    finally:
        own.node.resume()

    async def publishes() -> bool:
        # The connection to publish may be left a moment after the other one: what is in flight on it is unknown.
        return await own_bus.publish([Outgoing("", queue, b"1")], timeout=PATIENCE) == [Published.CONFIRMED]

    await eventually(publishes, "it is found again")
    assert bodies(await receive(consumer, 1)) == [b"1"]


async def test_under_a_memory_alarm_publishing_ends_in_time_and_goes_on_after_it(
    own: Broker, own_bus: RabbitBus, organism_name: str
) -> None:
    if not isinstance(own.node, RabbitMQNode):
        pytest.fail("the alarm is set with rabbitmqctl of a node on this machine")
    queue = Names(organism_name).ingress
    consumer = await own_bus.consume(queue, prefetch=100)
    await own_bus.publish([Outgoing("", queue, b"before")])
    own.node.control("set_vm_memory_high_watermark", "0.00001")
    try:
        for _ in range(3):
            async with asyncio.timeout(PATIENCE):
                told = await own_bus.publish([Outgoing("", queue, b"blocked")] * 10, timeout=0.3)
            assert told == [Published.UNKNOWN] * 10
        assert own_bus.connected
        assert bodies(await receive(consumer, 1, ack=True)) == [b"before"]
    finally:
        own.node.control("set_vm_memory_high_watermark", "0.6")
    assert await own_bus.publish([Outgoing("", queue, b"after")], timeout=PATIENCE) == [Published.CONFIRMED]
    arrived: list[bytes] = []
    while b"after" not in arrived:
        arrived += bodies(await receive(consumer, 1, ack=True))
    assert arrived.count(b"blocked") <= 10, "what was published while the broker was known to block was not kept"
