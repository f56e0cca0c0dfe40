"""What every bus promises to whoever leaves it."""

from __future__ import annotations

import pytest

from tests.contract.bus_hub import Hub, bodies, eventually_depth, receive
from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.port import Bus, Outgoing
from xml_pipeline.message_bus.topology import organism_topology


class BusStopSuite:
    """Stopping to consume, and closing."""

    @pytest.fixture
    async def bus(self, hub: Hub) -> Bus:
        bus = await hub.connect()
        await bus.declare(organism_topology(hub.names.organism, ["greeter"]))
        return bus

    @pytest.fixture
    def queue(self, hub: Hub) -> str:
        return hub.names.ingress

    async def test_a_stopped_consumer_gives_back_what_no_batch_has_taken(self, hub: Hub, bus: Bus, queue: str) -> None:
        consumer = await bus.consume(queue, prefetch=5)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(8)])
        taken = await receive(consumer, 2)
        await eventually_depth(bus, queue, 3)
        await consumer.stop()
        await eventually_depth(bus, queue, 6)
        assert not consumer.healthy
        with pytest.raises(BrokerUnavailable):
            await consumer.batch(1)
        await consumer.ack(taken[:1])
        await consumer.stop()
        await consumer.close()
        other = await (await hub.connect()).consume(queue, prefetch=10)
        assert sorted(bodies(await receive(other, 7))) == [b"%d" % number for number in range(1, 8)]

    async def test_acks_said_just_before_the_end_are_with_the_broker(self, hub: Hub, bus: Bus, queue: str) -> None:
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(500)])
        leaving = await hub.connect()
        consumer = await leaving.consume(queue, prefetch=500)
        await consumer.ack(await receive(consumer, 500))
        await leaving.close()
        late = await bus.consume(queue, prefetch=500)
        await bus.publish([Outgoing("", queue, b"last")])
        assert bodies(await receive(late, 1)) == [b"last"]
        await late.close()
