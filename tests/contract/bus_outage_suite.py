"""What every bus promises when its broker goes away and comes back; `outage` breaks it, `hub` connects to it."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from tests.contract.bus_hub import PATIENCE, Hub, bodies, eventually, receive
from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing, Published
from xml_pipeline.message_bus.topology import Binding, organism_topology


class Outage(Protocol):
    """Ways to take the broker away and bring it back."""

    async def stop(self) -> None:
        """End it; what it stored stays."""

    async def start(self) -> None:
        """Run it again."""

    async def wipe(self) -> None:
        """Forget what it stored, while it is stopped."""


class BusOutageSuite:
    """A broker that stops, starts and comes back empty."""

    @pytest.fixture
    async def bus(self, hub: Hub) -> Bus:
        bus = await hub.connect()
        await bus.declare(organism_topology(hub.names.organism, ["greeter"]))
        return bus

    @pytest.fixture
    def queue(self, hub: Hub) -> str:
        return hub.names.ingress

    async def test_while_the_broker_is_gone_nothing_hangs_and_nothing_raises(
        self, hub: Hub, bus: Bus, queue: str, outage: Outage
    ) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        waiting = asyncio.create_task(consumer.batch(1))
        await outage.stop()
        try:
            await _until_unhealthy(bus, consumer)
            async with asyncio.timeout(PATIENCE):
                told = await bus.publish([Outgoing("", queue, b"1"), Outgoing("", "nowhere", b"2")], timeout=0.2)
                assert await bus.depth(queue) is None
            assert told == [Published.UNKNOWN, Published.UNKNOWN]
            with pytest.raises(BrokerUnavailable):
                async with asyncio.timeout(2 * PATIENCE):
                    await bus.declare(organism_topology(hub.names.organism, []))
            assert not waiting.done()
        finally:
            waiting.cancel()
            await outage.start()

    async def test_consumers_and_publishers_come_back_by_themselves(self, bus: Bus, queue: str, outage: Outage) -> None:
        consumer = await bus.consume(queue, prefetch=4)
        await bus.publish([Outgoing("", queue, b"%d" % number) for number in range(5)])
        held = await receive(consumer, 4)
        await consumer.ack(held[:1])
        # The next one comes when the broker has taken the ack: one that is under way may be lost with the broker.
        held += await receive(consumer, 1)
        await outage.stop()
        await _until_unhealthy(bus, consumer)
        await outage.start()
        await _until_healthy(bus, consumer)
        await consumer.ack(held)  # of a connection that is gone: ignored
        again = await receive(consumer, 4, ack=True)
        assert sorted(bodies(again)) == [b"1", b"2", b"3", b"4"]
        assert all(one.redelivered for one in again)
        assert await bus.publish([Outgoing("", queue, b"new")], timeout=PATIENCE) == [Published.CONFIRMED]
        assert bodies(await receive(consumer, 1)) == [b"new"]

    async def test_a_publish_waits_for_the_broker_as_long_as_it_may(self, bus: Bus, queue: str, outage: Outage) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        await outage.stop()
        await _until_unhealthy(bus, consumer)
        publishing = asyncio.create_task(bus.publish([Outgoing("", queue, b"late")], timeout=2 * PATIENCE))
        await outage.start()
        assert await publishing == [Published.CONFIRMED]
        assert bodies(await receive(consumer, 1)) == [b"late"]

    async def test_a_queue_of_ones_own_is_made_again_under_another_name(
        self, hub: Hub, bus: Bus, outage: Outage
    ) -> None:
        subscriber = await bus.subscribe([Binding(hub.names.events, "", "feed.#")])
        before = subscriber.reply_address
        await outage.stop()
        await _until_unhealthy(bus, subscriber)
        await outage.start()
        await _until_healthy(bus, subscriber)
        assert subscriber.reply_address != before
        messages = [Outgoing(hub.names.events, "feed.a", b"1"), Outgoing("", subscriber.reply_address, b"2")]
        assert await bus.publish(messages, timeout=PATIENCE) == [Published.CONFIRMED] * 2
        assert sorted(bodies(await receive(subscriber, 2))) == [b"1", b"2"]

    async def test_a_broker_that_comes_back_empty_is_furnished_again(
        self, hub: Hub, bus: Bus, queue: str, outage: Outage
    ) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        subscriber = await bus.subscribe([Binding(hub.names.control, "")])
        await bus.publish([Outgoing("", queue, b"forgotten")])
        await receive(consumer, 1)
        await outage.stop()
        await _until_unhealthy(bus, consumer)
        await outage.wipe()
        await outage.start()
        await _until_healthy(bus, consumer)
        await _until_healthy(bus, subscriber)
        messages = [Outgoing("", queue, b"new"), Outgoing(hub.names.control, "", b"hint")]
        messages += [Outgoing("", hub.names.agent("greeter"), b"work")]
        assert await bus.publish(messages, timeout=PATIENCE) == [Published.CONFIRMED] * 3
        assert bodies(await receive(consumer, 1)) == [b"new"]
        assert bodies(await receive(subscriber, 1)) == [b"hint"]

    async def test_closing_does_not_wait_for_a_broker_that_is_gone(
        self, hub: Hub, queue: str, bus: Bus, outage: Outage
    ) -> None:
        consumer = await bus.consume(queue, prefetch=10)
        await outage.stop()
        try:
            async with asyncio.timeout(PATIENCE):
                await consumer.close()
                await bus.close()
        finally:
            await outage.start()


async def _until_unhealthy(bus: Bus, consumer: Consumer) -> None:
    async def gone() -> bool:
        return not bus.connected and not consumer.healthy

    await eventually(gone, "the bus says that the broker is gone")


async def _until_healthy(bus: Bus, consumer: Consumer) -> None:
    async def back() -> bool:
        return bus.connected and consumer.healthy

    await eventually(back, "the bus says that all is well")
