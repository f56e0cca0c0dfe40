"""The bus in one process: the same promises as on RabbitMQ, without a broker beside it."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from xml_pipeline.errors import BrokerUnavailable, NotFound, Refused
from xml_pipeline.message_bus.limits import is_publishable
from xml_pipeline.message_bus.memory_broker import BrokerState, MemoryQueue, Stored
from xml_pipeline.message_bus.port import Incoming, Outgoing, Published
from xml_pipeline.message_bus.topology import Binding, Topology, merge

log = structlog.get_logger(__name__)


class MemoryBroker:
    """A broker for the buses of one event loop; it can be stopped, emptied and started again, as a real one can."""

    def __init__(self) -> None:
        self.state = BrokerState()
        self._buses: list[MemoryBus] = []
        self._running = asyncio.Event()
        self._running.set()

    @property
    def running(self) -> bool:
        """Whether it takes and delivers messages."""
        return self._running.is_set()

    async def wait_running(self) -> None:
        """Return when it runs."""
        await self._running.wait()

    def connect(self) -> MemoryBus:
        """A connection of its own: what its consumers hold is given back when it closes."""
        bus = MemoryBus(self, self._buses.remove)
        self._buses.append(bus)
        return bus

    def stop(self) -> None:
        """Cut every connection and answer nobody; what was not acked is ready again."""
        self._running.clear()
        for bus in list(self._buses):
            bus.lose()

    def wipe(self) -> None:
        """Forget all exchanges, queues and messages, while it is stopped."""
        if self.running:
            raise Refused("stop the broker before wiping it")
        self.state = BrokerState()

    def start(self) -> None:
        """Run again: connections come back, make again what they had declared, and consume on."""
        self._running.set()
        for bus in list(self._buses):
            bus.restore()

    def drop(self) -> None:
        """Cut every connection once; each comes back at once."""
        self.stop()
        self.start()

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its messages; who declared it makes it again."""
        self.state.delete_queue(name)
        for bus in list(self._buses):
            bus.restore()

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange with its bindings; who declared it makes it again."""
        self.state.delete_exchange(name)
        for bus in list(self._buses):
            bus.restore()


class MemoryBus:
    """One connection to a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, on_close: Callable[[MemoryBus], None]) -> None:
        self._broker = broker
        self._on_close = on_close
        self._topology = Topology((), (), ())
        self._consumers: list[MemoryConsumer] = []
        self._closed = False

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings; raises BrokerUnavailable, and Refused where they differ."""
        if not self.connected:
            raise BrokerUnavailable("the broker in memory is stopped")
        self._broker.state.declare(topology)
        self._topology = merge(self._topology, topology)

    async def publish(self, messages: Sequence[Outgoing], *, timeout: float = 5.0) -> list[Published]:
        """Publish many and tell the outcome of each; all UNKNOWN while the broker is stopped."""
        await asyncio.sleep(0)  # as on a network, whoever publishes in a loop lets the others run
        if not self.connected and not await self._returns(timeout):
            return [Published.UNKNOWN] * len(messages)
        return [self._publish(message) for message in messages]

    async def consume(self, queue: str, *, prefetch: int) -> MemoryConsumer:
        """Subscribe to a declared queue; raises NotFound where it is not."""
        if self._broker.running and queue not in self._broker.state.queues:
            raise NotFound(f"no queue {queue} on the broker")
        return self._add(MemoryConsumer(queue, (), prefetch, self._forget))

    async def subscribe(self, bindings: Sequence[Binding], *, prefetch: int = 1000) -> MemoryConsumer:
        """Subscribe with a queue of one's own, which is gone with the consumer or the connection."""
        return self._add(MemoryConsumer(None, tuple(bindings), prefetch, self._forget))

    async def depth(self, queue: str) -> int | None:
        """Messages ready in a queue, None where it does not exist or the broker is stopped."""
        found = self._broker.state.queues.get(queue) if self.connected else None
        return None if found is None else len(found.ready)

    @property
    def connected(self) -> bool:
        """Whether the broker runs and this connection is open."""
        return self._broker.running and not self._closed

    async def close(self) -> None:
        """Close all consumers; idempotent."""
        if self._closed:
            return
        for consumer in list(self._consumers):
            await consumer.close()
        self._closed = True
        self._on_close(self)

    def lose(self) -> None:
        """The connection is cut: what the consumers hold is void."""
        for consumer in self._consumers:
            consumer.detach()

    def restore(self) -> None:
        """Declare again what was declared, and consume again."""
        if not self.connected:
            return
        self._broker.state.declare(self._topology)
        for consumer in self._consumers:
            if not consumer.ended:
                self._attach(consumer)
                self._bind(consumer)

    def _publish(self, message: Outgoing) -> Published:
        if not is_publishable(message):
            log.warning("publish_refused", exchange=message.exchange[:64], size=len(message.body))
            return Published.REFUSED
        routed = self._broker.state.publish(message, dict(message.headers))
        return Published.CONFIRMED if routed else Published.UNROUTABLE

    async def _returns(self, timeout: float) -> bool:
        if self._closed:
            return False
        try:
            async with asyncio.timeout(timeout):
                await self._broker.wait_running()
        except TimeoutError:
            return False
        return self.connected

    def _add(self, consumer: MemoryConsumer) -> MemoryConsumer:
        if self._closed:
            raise BrokerUnavailable("this connection is closed")
        if self._broker.running:
            self._attach(consumer)
            try:
                self._bind(consumer)
            except NotFound:
                consumer.detach()
                raise
        self._consumers.append(consumer)
        return consumer

    def _attach(self, consumer: MemoryConsumer) -> None:
        state = self._broker.state
        if consumer.attached:
            return
        if consumer.queue_name is not None:
            if consumer.queue_name in state.queues:
                consumer.attach(state, state.queues[consumer.queue_name])
            return
        consumer.attach(state, state.add_own_queue(f"own-{secrets.token_hex(8)}"))

    def _bind(self, consumer: MemoryConsumer) -> None:
        for binding in consumer.bindings:
            self._broker.state.bind(Binding(binding.exchange, consumer.reply_address, binding.key))

    def _forget(self, consumer: MemoryConsumer) -> None:
        self._consumers.remove(consumer)


class MemoryConsumer:
    """A subscription with bounded prefetch; without `queue_name` it has a queue of its own and acks by itself."""

    def __init__(
        self,
        queue_name: str | None,
        bindings: tuple[Binding, ...],
        prefetch: int,
        on_close: Callable[[MemoryConsumer], None],
    ) -> None:
        if prefetch < 1:
            raise ValueError("prefetch is at least 1")
        self.queue_name = queue_name
        self.bindings = bindings
        self._prefetch = prefetch
        self._on_close = on_close
        self._attached: tuple[BrokerState, MemoryQueue] | None = None
        self._reply_address = ""
        self._epoch = 0
        self._tag = 0
        self._held: dict[int, Stored] = {}
        self._arrived: deque[Incoming] = deque()
        self._wake = asyncio.Event()
        self.ended = False
        self._closed = False

    async def batch(self, limit: int) -> Sequence[Incoming]:
        """Wait for at least one delivery, then return all that have arrived, at most `limit`."""
        while not self._arrived:
            if self.ended:
                raise BrokerUnavailable("this consumer is closed")
            self._wake.clear()
            await self._wake.wait()
        taken = [self._arrived.popleft() for _ in range(min(limit, len(self._arrived)))]
        if self.queue_name is None:
            self._settle(taken)
        return taken

    async def ack(self, deliveries: Sequence[Incoming]) -> None:
        """Acknowledge; deliveries of an earlier connection are ignored."""
        self._settle(deliveries)

    async def reject(self, deliveries: Sequence[Incoming], *, requeue: bool) -> None:
        """Give back to the queue, or dead-letter."""
        if self._attached is None:
            return
        state, queue = self._attached
        rejected = self._take(deliveries)
        if requeue:
            queue.give_back(rejected)
            return
        for stored in rejected:
            state.dead_letter(queue, stored)
        queue.dispatch()

    @property
    def healthy(self) -> bool:
        """Whether the broker delivers to this consumer now."""
        return self.attached and not self.ended

    @property
    def attached(self) -> bool:
        """Whether it has a queue on the broker."""
        return self._attached is not None

    @property
    def reply_address(self) -> str:
        """The name of the queue."""
        return self._reply_address

    async def stop(self) -> None:
        """Take no more: what has arrived and no batch has taken goes back now; what was taken can still be acked."""
        if self.ended:
            return
        self.ended = True
        self._wake.set()
        arrived = list(self._arrived)
        self._arrived.clear()
        if self._attached is None:
            return
        queue = self._attached[1]
        if self in queue.readers:
            queue.readers.remove(self)
        if self.queue_name is not None:
            queue.give_back(self._take(arrived))

    async def close(self) -> None:
        """Stop consuming; what was not acked goes back to the queue."""
        if self._closed:
            return
        await self.stop()
        self._closed = True
        self.detach()
        self._on_close(self)

    @property
    def free(self) -> int:
        """How many deliveries may still be held."""
        return self._prefetch - len(self._held)

    def deliver(self, stored: Stored) -> None:
        """Take one more delivery from the queue."""
        self._tag += 1
        self._held[self._tag] = stored
        self._arrived.append(self._incoming(self._tag, stored))
        self._wake.set()

    def cancelled(self) -> None:
        """The queue was deleted."""
        self._forget_deliveries()

    def attach(self, state: BrokerState, queue: MemoryQueue) -> None:
        """Begin to read a queue."""
        self._epoch += 1
        self._attached = (state, queue)
        self._reply_address = queue.name
        queue.readers.append(self)
        queue.dispatch()

    def detach(self) -> None:
        """Stop reading: what is held goes back to its queue, and a queue of one's own is gone."""
        if self._attached is None:
            return
        state, queue = self._attached
        held = list(self._held.values())
        self._forget_deliveries()
        if self in queue.readers:
            queue.readers.remove(self)
        if self.queue_name is None:
            state.delete_queue(queue.name)
        else:
            queue.give_back(held)

    def _forget_deliveries(self) -> None:
        self._attached = None
        self._held.clear()
        if self.queue_name is not None:
            self._arrived.clear()

    def _settle(self, deliveries: Sequence[Incoming]) -> None:
        if self._take(deliveries) and self._attached is not None:
            self._attached[1].dispatch()

    def _take(self, deliveries: Sequence[Incoming]) -> list[Stored]:
        current = (one.tag for one in deliveries if one.epoch == self._epoch)
        return [self._held.pop(tag) for tag in current if tag in self._held]

    def _incoming(self, tag: int, stored: Stored) -> Incoming:
        message = stored.message
        return Incoming(
            tag=tag,
            epoch=self._epoch,
            queue=self._reply_address,
            exchange=message.exchange,
            routing_key=message.routing_key,
            body=message.body,
            headers=stored.headers,
            redelivered=stored.redelivered,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
        )
