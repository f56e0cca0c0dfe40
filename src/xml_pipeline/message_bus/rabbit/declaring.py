"""Declaring a topology on RabbitMQ, remembering it, and making it again when the broker has lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiormq.abc import AbstractChannel, ArgumentsType
from aiormq.exceptions import (
    AMQPChannelError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from xml_pipeline.errors import BrokerUnavailable, Refused
from xml_pipeline.message_bus.rabbit.link import Backoff, Connection, Link, call
from xml_pipeline.message_bus.topology import (
    DELIVERY_LIMIT,
    OWN_QUEUE_MAX_BYTES,
    OWN_QUEUE_MAX_LENGTH,
    Binding,
    Exchange,
    Queue,
    Topology,
    merge,
)

log = structlog.get_logger(__name__)

DECLARE_SECONDS: Final = 10.0
_KEEP_SECONDS: Final = 10.0
# The broker tells the consumers of a deleted quorum queue only if nobody declares it again at once.
_SETTLE_SECONDS: Final = 1.0
_OWN_QUEUE: Final[ArgumentsType] = {
    "x-max-length": OWN_QUEUE_MAX_LENGTH,
    "x-max-length-bytes": OWN_QUEUE_MAX_BYTES,
    "x-overflow": "drop-head",
}


class NotMade(BrokerUnavailable):
    """Something is not on the broker, and this user may not make it."""


class _MayNotMake(Exception):
    """The broker refuses to let this user make something."""


class Declarer:
    """Knows all that was declared through one bus, and asks questions about queues."""

    def __init__(self, link: Link, on_restored: Callable[[], Awaitable[None]]) -> None:
        self._link = link
        self._on_restored = on_restored
        self._topology = Topology((), (), ())
        self._asking = asyncio.Lock()
        self._questions: AbstractChannel | None = None
        self._restoring = asyncio.Lock()
        self._restored = 0
        self._may_make = True

    def leads_on(self, exchange: str, key: str) -> bool:
        """Whether what is published so has a queue, by what was declared through this bus."""
        if exchange:
            return any(binding.exchange == exchange for binding in self._topology.bindings)
        return any(queue.name == key for queue in self._topology.queues)

    def has_exchange(self, name: str) -> bool:
        """Whether an exchange was declared through this bus."""
        return any(exchange.name == name for exchange in self._topology.exchanges)

    async def declare(self, topology: Topology) -> None:
        """Declare, and make it again from now on; raises BrokerUnavailable, and Refused for other settings."""
        try:
            async with asyncio.timeout(DECLARE_SECONDS):
                await self._declare_with_patience(topology)
        except TimeoutError as error:
            raise BrokerUnavailable(f"RabbitMQ declared nothing within {DECLARE_SECONDS:.0f} seconds") from error
        self._topology = merge(self._topology, topology)

    async def prepare(self, connection: Connection) -> None:
        """Declare on a new connection all that was declared before: the broker may have come back empty."""
        self._may_make = True
        try:
            await self._declare(connection, self._topology)
        except Refused as error:
            log.warning("topology_refused", reason=str(error))

    async def restore(self) -> bool:
        """Declare again what is missing; many who ask at once share one run. Whether it worked."""
        seen = self._restored
        async with self._restoring:
            if self._restored > seen:
                return True
            await asyncio.sleep(_SETTLE_SECONDS)
            done = await self._declare_again()
            self._restored += done
        log.warning("topology_restored", complete=done)
        return done

    async def _declare_again(self) -> bool:
        try:
            await self._declare(await self._link.connection(), self._topology)
            await self._on_restored()
        except (BrokerUnavailable, Refused) as error:
            log.warning("topology_not_declared", reason=str(error))
            return False
        return True

    async def keep(self) -> None:
        """Declare again now and then: nobody is told of a deleted exchange or binding."""
        while True:
            await asyncio.sleep(_KEEP_SECONDS)
            await self._declare_again()

    async def restore_exchange(self, name: str) -> bool:
        """Declare again when the exchange is one that was declared; whether it is there now."""
        return self.has_exchange(name) and await self.restore()

    async def depth(self, queue: str) -> int | None:
        """Messages ready in a queue, None where it does not exist; raises BrokerUnavailable."""
        channel = await self._question_channel()
        try:
            answer = await call(channel.queue_declare(queue, passive=True))
        except ChannelNotFoundEntity:
            return None
        except AMQPChannelError as error:
            raise BrokerUnavailable(f"queue {queue}: {error}") from error
        return answer.message_count

    async def _question_channel(self) -> AbstractChannel:
        """A channel that is kept until an answer closes it, as the answer that something is missing does."""
        async with self._asking:
            if self._questions is None or self._questions.is_closed:
                connection = await self._link.connection()
                self._questions = await connection.open_plain_channel()
            return self._questions

    async def _declare_with_patience(self, topology: Topology) -> None:
        """Several services may declare the same queues in one moment; RabbitMQ lets some of them fail."""
        backoff = Backoff()
        while True:
            try:
                return await self._declare(await self._link.connection(), topology)
            except NotMade:
                raise
            except BrokerUnavailable as error:
                log.info("declare_repeated", reason=str(error))
                await backoff.pause()

    async def _declare(self, connection: Connection, topology: Topology) -> None:
        """Make it; whose user may not sees that others have. Who may not make one thing makes nothing."""
        if self._may_make:
            try:
                return await _make(connection, topology)
            except _MayNotMake as error:
                self._may_make = False
                log.info("topology_left_to_others", reason=str(error))
        return await _see(connection, topology)


async def declare_own_queue(channel: AbstractChannel, bindings: tuple[Binding, ...]) -> str:
    """Make an exclusive queue with a name of the broker's choice, bind it, and return its name."""
    answer = await call(channel.queue_declare("", exclusive=True, auto_delete=True, arguments=_OWN_QUEUE))
    name = answer.queue or ""
    await bind_own_queue(channel, name, bindings)
    return name


async def bind_own_queue(channel: AbstractChannel, name: str, bindings: tuple[Binding, ...]) -> None:
    """Bind a queue of one's own; once more changes nothing."""
    for binding in bindings:
        await call(channel.queue_bind(name, binding.exchange, binding.key))


async def _make(connection: Connection, topology: Topology) -> None:
    if topology == Topology((), (), ()):
        return
    channel = await connection.open_plain_channel()
    steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        *((f"exchange {one.name}", _exchange_step(channel, one)) for one in topology.exchanges),
        *((f"queue {one.name}", _queue_step(channel, one)) for one in topology.queues),
        *((f"binding to {one.queue}", _binding_step(channel, one)) for one in topology.bindings),
    ]
    for what, step in steps:
        try:
            await call(step())
        except ChannelPreconditionFailed as error:
            raise Refused(f"{what} exists on the broker with other settings: {error}; delete it there") from error
        except ChannelAccessRefused as error:
            raise _MayNotMake(f"{what}: {error}") from error
        except AMQPChannelError as error:
            raise BrokerUnavailable(f"{what}: {error}") from error
    await call(channel.close())


async def _see(connection: Connection, topology: Topology) -> None:
    """Raises NotMade where an exchange or a queue is not there; nobody can ask for bindings."""
    if topology == Topology((), (), ()):
        return
    channel = await connection.open_plain_channel()
    try:
        for exchange in topology.exchanges:
            await call(channel.exchange_declare(exchange.name, passive=True))
        for queue in topology.queues:
            await call(channel.queue_declare(queue.name, passive=True))
    except ChannelNotFoundEntity as error:
        raise NotMade(f"{error}; this user may not make it: run 'organism broker-setup', or start a router") from error
    except AMQPChannelError as error:
        raise BrokerUnavailable(str(error)) from error
    await call(channel.close())


def _exchange_step(channel: AbstractChannel, exchange: Exchange) -> Callable[[], Awaitable[object]]:
    return lambda: channel.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=exchange.durable)


def _queue_step(channel: AbstractChannel, queue: Queue) -> Callable[[], Awaitable[object]]:
    return lambda: channel.queue_declare(queue.name, durable=True, arguments=_arguments(queue))


def _binding_step(channel: AbstractChannel, binding: Binding) -> Callable[[], Awaitable[object]]:
    return lambda: channel.queue_bind(binding.queue, binding.exchange, binding.key)


def _arguments(queue: Queue) -> ArgumentsType:
    arguments: dict[str, str | int] = {}
    if queue.quorum:
        arguments["x-queue-type"] = "quorum"
        arguments["x-delivery-limit"] = DELIVERY_LIMIT
    # Not at-least-once dead-lettering: its worker in RabbitMQ 3.10 crashes when a queue is deleted, and harms others.
    if queue.dead_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_exchange
    return dict(arguments)
