"""The turns' way by aio-pika alone, as it is used commonly: ingress, relay, agent queue, worker, ingress again.

Two processes, durable quorum queues, persistent messages; whoever takes a message awaits the confirm of the next one
before the ack. No XML, no database, nothing but laps.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage, AbstractRobustChannel

from tests.support.broker import unique_organism
from xml_pipeline.message_bus.rabbit import connect_rabbit
from xml_pipeline.message_bus.topology import Queue, Topology

PREFETCH = 400
LIMIT = 300.0

Take = Callable[[AbstractIncomingMessage], Awaitable[None]]


async def run(url: str, *, threads: int, laps: int, body: bytes) -> float:
    """Laps a second, with so many messages under way."""
    ingress, agent = unique_organism("ingress"), unique_organism("agent")
    await _declare(url, ingress, agent)
    worker = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, url, agent, ingress)
    try:
        async with asyncio.timeout(LIMIT):
            return threads * laps / await _seconds(url, (ingress, agent), threads, laps, body)
    finally:
        worker.kill()
        await worker.wait()
        await _delete(url, ingress, agent)


async def _seconds(url: str, queues: tuple[str, str], threads: int, laps: int, body: bytes) -> float:
    """From the first message's release to the last one's last lap; the worker is warm by then."""
    ingress, agent = queues
    left, warm, done = threads, asyncio.Event(), asyncio.Event()
    async with _channel(url) as channel:
        exchange = channel.default_exchange

        async def relay(message: AbstractIncomingMessage) -> None:
            nonlocal left
            lap = _lap(message)
            if lap == laps:
                left -= 1
                warm.set()
            else:
                await _pass_on(exchange, agent, message.body, lap + 1)
            await message.ack()
            if left == 0:
                done.set()

        await (await channel.get_queue(ingress)).consume(relay)
        left += 1
        await _pass_on(exchange, ingress, body, laps - 1)
        await warm.wait()
        begin = time.perf_counter()
        await asyncio.gather(*(_pass_on(exchange, ingress, body, 0) for _ in range(threads)))
        await done.wait()
        return time.perf_counter() - begin


async def _work(url: str, agent: str, ingress: str) -> None:
    async with _channel(url) as channel:
        exchange = channel.default_exchange

        async def take(message: AbstractIncomingMessage) -> None:
            await _pass_on(exchange, ingress, message.body, _lap(message))
            await message.ack()

        await (await channel.get_queue(agent)).consume(take)
        await asyncio.Event().wait()


@asynccontextmanager
async def _channel(url: str) -> AsyncIterator[AbstractRobustChannel]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        assert isinstance(channel, AbstractRobustChannel)
        yield channel


async def _pass_on(exchange: AbstractExchange, queue: str, body: bytes, lap: int) -> None:
    message = aio_pika.Message(body, headers={"lap": lap}, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await exchange.publish(message, queue)


def _lap(message: AbstractIncomingMessage) -> int:
    lap = message.headers["lap"]
    assert isinstance(lap, int)
    return lap


async def _declare(url: str, *queues: str) -> None:
    bus = await connect_rabbit(url, name="bench")
    await bus.declare(Topology((), tuple(map(Queue, queues)), ()))
    await bus.close()


async def _delete(url: str, *queues: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for queue in queues:
            await channel.queue_delete(queue)


if __name__ == "__main__":
    uvloop.run(_work(*sys.argv[1:4]))
