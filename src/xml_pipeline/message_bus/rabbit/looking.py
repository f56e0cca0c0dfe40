"""Looks at a broker without changing anything on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final
from uuid import uuid4

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.facts import BrokerFacts, QueueFacts
from xml_pipeline.message_bus.rabbit.link import Connection, call, open_connection, place_of
from xml_pipeline.message_bus.topology import Topology

_BLOCKED_SECONDS: Final = 3.0


async def look_at_broker(url: str, topology: Topology, *, name: str) -> BrokerFacts:
    """What the broker is, and which of these exchanges and queues it has. Raises BrokerUnavailable.

    Any user of the virtual host may see it.
    """
    connection = await open_connection(url, name)
    try:
        said = connection.server_properties
        exchanges = [one.name for one in topology.exchanges]
        return BrokerFacts(
            place=place_of(url),
            product=_text(said.get("product")),
            version=_text(said.get("version")),
            queues={queue.name: await _queue(connection, queue.name) for queue in topology.queues},
            missing_exchanges=tuple(await _missing(connection, exchanges)),
            blocked=await _is_blocked(connection),
        )
    finally:
        await connection.close()


async def _queue(connection: Connection, name: str) -> QueueFacts | None:
    channel = await connection.open_plain_channel()
    try:
        seen = await call(channel.queue_declare(name, passive=True))
    except ChannelNotFoundEntity:
        return None
    except AMQPChannelError as error:
        raise BrokerUnavailable(f"queue {name}: {error}") from error
    await call(channel.close())
    return QueueFacts(seen.message_count or 0, seen.consumer_count or 0)


async def _missing(connection: Connection, names: Iterable[str]) -> list[str]:
    missing = []
    for name in names:
        channel = await connection.open_plain_channel()
        try:
            await call(channel.exchange_declare(name, passive=True))
            await call(channel.close())
        except ChannelNotFoundEntity:
            missing.append(name)
        except AMQPChannelError as error:
            raise BrokerUnavailable(f"exchange {name}: {error}") from error
    return missing


async def _is_blocked(connection: Connection) -> bool:
    """A broker with an alarm reads nothing more of a connection that has published.

    What is published goes nowhere; that this user may not publish it would be an answer as good as any.
    """
    channel = await connection.open_plain_channel()
    try:
        async with asyncio.timeout(_BLOCKED_SECONDS):
            await _publish_nowhere(channel)
            await call(channel.close())
    except TimeoutError:
        return True
    except AMQPChannelError:
        return False
    except BrokerUnavailable:
        # The answer that the channel was closed may come before the question.
        return connection.tap.blocked
    return connection.tap.blocked


async def _publish_nowhere(channel: AbstractChannel) -> None:
    await channel.basic_publish(b"", exchange="", routing_key=f"nowhere-{uuid4()}", mandatory=False)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "unknown")
