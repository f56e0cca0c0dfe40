"""The bus on RabbitMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.rabbit.consumer import RabbitConsumer
from xml_pipeline.message_bus.rabbit.declaring import Declarer
from xml_pipeline.message_bus.rabbit.link import Connection, Link
from xml_pipeline.message_bus.rabbit.publisher import Publisher
from xml_pipeline.message_bus.topology import Binding, Topology

log = structlog.get_logger(__name__)

_DEPTH_SECONDS = 5.0


class RabbitBus:
    """Two connections, one to publish and one to consume and declare; both come back by themselves."""

    def __init__(self, url: str, name: str) -> None:
        self._incoming = Link(url, f"{name} consume", self._prepare)
        self._outgoing = Link(url, f"{name} publish")
        self._declarer = Declarer(self._incoming, self._bind_again)
        self._publisher = Publisher(self._outgoing, self._declarer.restore_exchange)
        self._consumers: set[RabbitConsumer] = set()
        self._upkeep: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Open both connections; raises BrokerUnavailable."""
        try:
            await self._incoming.start()
            await self._outgoing.start()
            self._upkeep = asyncio.create_task(self._declarer.keep(), name="upkeep of the topology")
        except BaseException:
            await self.close()
            raise

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings; raises BrokerUnavailable, and Refused where they differ."""
        if self._closed:
            raise BrokerUnavailable("this bus is closed")
        await self._declarer.declare(topology)

    async def publish(self, messages: Sequence[Outgoing], *, timeout: float = 5.0) -> list[Published]:
        """Publish many and tell the outcome of each.

        Where a queue that was declared through this bus is gone, it is declared again, and what found none is sent
        again within the same time.
        """
        if self._closed:
            return [Published.UNKNOWN] * len(messages)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        outcomes = await self._publisher.publish(messages, timeout)
        lost = [place for place, outcome in enumerate(outcomes) if self._can_restore(messages[place], outcome)]
        if lost and await self._restored(deadline - loop.time()):
            again = await self._publisher.publish([messages[place] for place in lost], deadline - loop.time())
            for place, outcome in zip(lost, again, strict=True):
                outcomes[place] = outcome
        return outcomes

    async def consume(self, queue: str, *, prefetch: int) -> RabbitConsumer:
        """Subscribe to a declared queue; raises NotFound where it is not."""
        return await self._start(queue, (), prefetch)

    async def subscribe(self, bindings: Sequence[Binding], *, prefetch: int = 1000) -> RabbitConsumer:
        """Subscribe with an exclusive queue of one's own."""
        return await self._start(None, tuple(bindings), prefetch)

    async def depth(self, queue: str) -> int | None:
        """Messages ready in a queue, None where it does not exist or the broker does not answer."""
        if self._closed:
            return None
        try:
            async with asyncio.timeout(_DEPTH_SECONDS):
                return await self._declarer.depth(queue)
        except (TimeoutError, BrokerUnavailable) as error:
            log.info("depth_unknown", queue=queue, reason=str(error))
            return None

    @property
    def connected(self) -> bool:
        """Whether the broker answers on both connections."""
        return not self._closed and self._incoming.answers and self._outgoing.answers

    async def close(self) -> None:
        """Close all consumers and both connections; idempotent.

        Each connection is closed by the protocol's handshake: the broker has handled all that was said before it.
        """
        if self._closed:
            return
        self._closed = True
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        # Their channels end with the connection.
        await asyncio.gather(*(consumer.leave() for consumer in list(self._consumers)))
        await asyncio.gather(self._incoming.close(), self._outgoing.close())

    async def _start(self, queue: str | None, bindings: tuple[Binding, ...], prefetch: int) -> RabbitConsumer:
        if self._closed:
            raise BrokerUnavailable("this bus is closed")
        consumer = RabbitConsumer(self._incoming, self._declarer, queue, bindings, prefetch, self._consumers.discard)
        self._consumers.add(consumer)
        try:
            await consumer.start()
        except BaseException:
            await consumer.close()
            raise
        return consumer

    def _can_restore(self, message: Outgoing, outcome: Published) -> bool:
        return outcome is Published.UNROUTABLE and self._declarer.leads_on(message.exchange, message.routing_key)

    async def _restored(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                return await self._declarer.restore()
        except TimeoutError:
            return False

    async def _bind_again(self) -> None:
        for consumer in list(self._consumers):
            await consumer.bind_again()

    async def _prepare(self, connection: Connection) -> None:
        await self._declarer.prepare(connection)


async def connect_rabbit(url: str, *, name: str) -> RabbitBus:
    """Connect to RabbitMQ; `name` is what the broker shows for the connections.

    Raises BrokerUnavailable when it does not answer now; later losses are healed in the background.
    """
    bus = RabbitBus(url, name)
    await bus.start()
    return bus
