"""What an administrator does to a RabbitMQ: alarms, purges, deletions, and a look at the queues.

All of it waits for its end. Inside an event loop, call it by `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity

from tests.support.processes import SupportError

_SECONDS = 15.0
_WATERMARK = "0.6"  # of the machine's memory, as in the node's configuration
_COLUMNS = ("name", "messages_ready", "messages_unacknowledged", "consumers")

Result = TypeVar("Result")


class Controlled(Protocol):
    """A node that takes rabbitmqctl's commands."""

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node, and return what it printed."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """Messages that wait and consumers, as a passive declaration tells them."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class ListedQueue:
    """A queue as rabbitmqctl lists it."""

    name: str
    ready: int
    unacknowledged: int
    consumers: int


@contextlib.contextmanager
def memory_alarm(node: Controlled) -> Iterator[None]:
    """A broker that says it is out of memory: inside the block it takes nothing from those who publish."""
    try:
        node.control("set_vm_memory_high_watermark", "0")
        yield
    finally:
        node.control("set_vm_memory_high_watermark", _WATERMARK)


def list_queues(node: Controlled) -> dict[str, ListedQueue]:
    """All queues of the default virtual host, by name, with what is delivered and not acknowledged. Takes seconds."""
    rows = json.loads(node.control("list_queues", *_COLUMNS, "--formatter", "json"))
    return {row["name"]: ListedQueue(*(row[column] for column in _COLUMNS)) for row in rows}


class BrokerControl:
    """Over AMQP, a connection for each call; SupportError when the broker does not do it within 15 seconds."""

    def __init__(self, url: str) -> None:
        self._url = url

    def purge(self, queue: str) -> int:
        """Drop what waits in a queue; how many messages. What is delivered and not acknowledged stays."""

        async def purge(channel: AbstractChannel) -> int:
            done = await (await channel.get_queue(queue)).purge()
            return done.message_count or 0

        return self._run(purge, f"purge {queue}")

    def delete(self, queue: str) -> int:
        """Delete a queue, used or not, empty or not; how many messages it had. One that is not there has none."""

        async def delete(channel: AbstractChannel) -> int:
            done = await channel.queue_delete(queue)
            return done.message_count or 0

        return self._run(delete, f"delete {queue}")

    def queues(self, names: Sequence[str]) -> dict[str, QueueState | None]:
        """The state of these queues; None for one that is not there."""

        async def states(connection: aio_pika.abc.AbstractConnection) -> dict[str, QueueState | None]:
            return {name: await _state(connection, name) for name in names}

        return self._on_connection(states, "look at the queues")

    def _run(self, action: Callable[[AbstractChannel], Awaitable[Result]], what: str) -> Result:
        async def on_channel(connection: aio_pika.abc.AbstractConnection) -> Result:
            return await action(await connection.channel())

        return self._on_connection(on_channel, what)

    def _on_connection(
        self, action: Callable[[aio_pika.abc.AbstractConnection], Awaitable[Result]], what: str
    ) -> Result:
        async def connected() -> Result:
            async with asyncio.timeout(_SECONDS):
                async with await aio_pika.connect(self._url) as connection:
                    return await action(connection)

        try:
            return asyncio.run(connected())
        except (AMQPError, OSError) as error:
            raise SupportError(f"the broker does not {what}: {type(error).__name__} {error}") from error


async def _state(connection: aio_pika.abc.AbstractConnection, name: str) -> QueueState | None:
    # A queue that is not there ends the channel: each gets one of its own.
    channel = await connection.channel()
    try:
        found = (await channel.get_queue(name)).declaration_result
    except ChannelNotFoundEntity:
        return None
    await channel.close()
    return QueueState(found.message_count or 0, found.consumer_count or 0)
