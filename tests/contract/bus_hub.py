"""What the bus suites need of a broker, in memory or real: connections, and ways to break things."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import aiormq

from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming
from xml_pipeline.message_bus.rabbit import connect_rabbit
from xml_pipeline.message_bus.topology import Names, Topology

PATIENCE = 30.0
_NOTHING = Topology((), (), ())


class Hub(Protocol):
    """One broker, and the names that a test has on it."""

    names: Names

    async def connect(self) -> Bus:
        """A new connection, which `close` will close."""

    async def delete_queue(self, name: str) -> None:
        """Delete a queue behind everybody's back."""

    async def delete_exchange(self, name: str) -> None:
        """Delete an exchange behind everybody's back."""

    async def close(self) -> None:
        """Close all connections and remove what the test left on the broker."""


class MemoryHub:
    """A broker in memory of the test's own."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.broker = MemoryBroker()
        self._buses: list[Bus] = []

    async def connect(self) -> Bus:
        bus = self.broker.connect()
        self._buses.append(bus)
        return bus

    async def delete_queue(self, name: str) -> None:
        self.broker.delete_queue(name)

    async def delete_exchange(self, name: str) -> None:
        self.broker.delete_exchange(name)

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


class RabbitHub:
    """A part of a RabbitMQ: the queues and exchanges of one organism; `topology` is removed in the end."""

    def __init__(self, url: str, names: Names, topology: Topology = _NOTHING) -> None:
        self.names = names
        self._url = url
        self._topology = topology
        self._buses: list[Bus] = []

    async def connect(self) -> Bus:
        bus = await connect_rabbit(self._url, name=self.names.organism)
        self._buses.append(bus)
        return bus

    async def delete_queue(self, name: str) -> None:
        await self._do(lambda channel: channel.queue_delete(name))

    async def delete_exchange(self, name: str) -> None:
        await self._do(lambda channel: channel.exchange_delete(name))

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()
        for queue in self._topology.queues:
            await self.delete_queue(queue.name)
        for exchange in self._topology.exchanges:
            await self.delete_exchange(exchange.name)

    async def _do(self, action: Callable[[aiormq.abc.AbstractChannel], Awaitable[object]]) -> None:
        async with aiormq.connect(self._url) as connection:
            await action(await connection.channel())


async def receive(consumer: Consumer, count: int, *, ack: bool = False) -> list[Incoming]:
    """Exactly the next `count` deliveries, in order."""
    received: list[Incoming] = []
    async with asyncio.timeout(PATIENCE):
        while len(received) < count:
            received += await consumer.batch(count - len(received))
    if ack:
        await consumer.ack(received)
    return received


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until a condition holds."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not await condition():
        assert asyncio.get_running_loop().time() < end, f"never happened: {what}"
        await asyncio.sleep(0.02)


async def eventually_depth(bus: Bus, queue: str, count: int) -> None:
    """Poll until a queue has so many ready messages."""

    async def reached() -> bool:
        return await bus.depth(queue) == count

    await eventually(reached, f"{count} messages ready in {queue}")


def bodies(deliveries: Sequence[Incoming]) -> list[bytes]:
    """What was carried."""
    return [one.body for one in deliveries]
