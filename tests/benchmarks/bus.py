"""Messages per second through the bus on RabbitMQ, beside aio-pika as it is used commonly, and bare frames.

1 KiB bodies, persistent, on a quorum queue, with publisher confirms and acks; one run takes them in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aio_pika
import aiormq
import uvloop

from tests.benchmarks.figures import Figure, per_second
from tests.benchmarks.raw_amqp import RawClient
from tests.support.broker import start_broker, unique_organism
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing, Published
from xml_pipeline.message_bus.rabbit import connect_rabbit
from xml_pipeline.message_bus.topology import Queue, Topology

SIZE = 20_000
RUNS = 3
BODY = b"x" * 1024
BATCH = 500
HEADERS: dict[str, str | int] = {"message-id": "0b0f6a7e-5a6e-4a66-9f3e-0a5b7f1f2c3d", "attempt": 1}

Step = Callable[[str, str, int], Awaitable[None]]


def run(url: str | None = None, size: int = SIZE) -> list[Figure]:
    """All figures, on the broker at `url`, or on one of its own."""
    if url is not None:
        return uvloop.run(figures(url, size))
    broker = start_broker()
    try:
        return uvloop.run(figures(broker.amqp_url, size))
    finally:
        broker.close()


async def figures(url: str, size: int = SIZE) -> list[Figure]:
    """Measure everything in turn, several times, and take medians."""
    steps: dict[str, tuple[Step, Step, int]] = {
        "bus": (_bus_publish, _bus_consume, size),
        "raw": (_raw_publish, _raw_consume, size),
        "gather": (_aio_pika_publish, _aio_pika_consume, size // 4),
        "each": (_aio_pika_publish_each, _aio_pika_consume, size // 20),
    }
    published: dict[str, list[float]] = {name: [] for name in steps}
    consumed: dict[str, list[float]] = {name: [] for name in steps}
    both, memory = [], []
    for _ in range(RUNS):
        for name, (publish, consume, count) in steps.items():
            queue = unique_organism("bench")
            await _declare(url, queue)
            published[name].append(await _timed(publish, url, queue, count) / count)
            consumed[name].append(await _timed(consume, url, queue, count) / count)
            await _delete(url, queue)
        both.append(await _at_once(url, size) / size)
        memory.append(await _in_memory(size) / size)
    rate = {name: (per_second(1, published[name]), per_second(1, consumed[name])) for name in steps}
    own_publish, own_consume = rate["bus"]
    return [
        Figure("bus: publish 500 at once, confirmed", own_publish, "bare frames", rate["raw"][0]),
        Figure("bus: publish 500 at once, confirmed", own_publish, "aio-pika, gather of 500", rate["gather"][0]),
        Figure("bus: publish 500 at once, confirmed", own_publish, "aio-pika, await each", rate["each"][0]),
        Figure("bus: consume and ack", own_consume, "bare frames", rate["raw"][1]),
        Figure("bus: consume and ack", own_consume, "aio-pika, ack each", rate["gather"][1]),
        Figure("bus: publish and consume at once, one process", per_second(1, both)),
        Figure("bus in memory: publish and consume at once", per_second(1, memory)),
    ]


async def _timed(step: Step, url: str, queue: str, count: int) -> float:
    begin = time.perf_counter()
    await step(url, queue, count)
    return time.perf_counter() - begin


async def _bus_publish(url: str, queue: str, count: int) -> None:
    bus = await connect_rabbit(url, name="bench")
    await publish(bus, queue, count)
    await bus.close()


async def _bus_consume(url: str, queue: str, count: int) -> None:
    bus = await connect_rabbit(url, name="bench")
    await take(await bus.consume(queue, prefetch=2 * BATCH), count)
    await bus.close()


async def _at_once(url: str, count: int) -> float:
    queue = unique_organism("bench")
    await _declare(url, queue)
    bus = await connect_rabbit(url, name="bench")
    consumer = await bus.consume(queue, prefetch=2 * BATCH)
    begin = time.perf_counter()
    await asyncio.gather(publish(bus, queue, count), take(consumer, count))
    seconds = time.perf_counter() - begin
    await bus.close()
    await _delete(url, queue)
    return seconds


async def _in_memory(count: int) -> float:
    bus = MemoryBroker().connect()
    await bus.declare(Topology((), (Queue("bench"),), ()))
    consumer = await bus.consume("bench", prefetch=2 * BATCH)
    begin = time.perf_counter()
    await asyncio.gather(publish(bus, "bench", count), take(consumer, count))
    seconds = time.perf_counter() - begin
    await bus.close()
    return seconds


async def publish(bus: Bus, queue: str, count: int) -> None:
    for start in range(0, count, BATCH):
        messages = [Outgoing("", queue, BODY, HEADERS) for _ in range(min(BATCH, count - start))]
        if set(await bus.publish(messages, timeout=30.0)) != {Published.CONFIRMED}:
            raise RuntimeError("the broker did not take everything")


async def take(consumer: Consumer, count: int) -> None:
    while count > 0:
        taken = await consumer.batch(BATCH)
        await consumer.ack(taken)
        count -= len(taken)


async def _raw_publish(url: str, queue: str, count: int) -> None:
    client = RawClient(url)
    client.publish(queue, BODY, count)
    client.close()


async def _raw_consume(url: str, queue: str, count: int) -> None:
    client = RawClient(url)
    client.consume(queue, count)
    client.close()


async def _aio_pika_publish(url: str, queue: str, count: int) -> None:
    async with await aio_pika.connect(url) as connection:
        exchange = (await connection.channel(on_return_raises=True)).default_exchange
        for start in range(0, count, BATCH):
            batch = range(min(BATCH, count - start))
            await asyncio.gather(*(exchange.publish(_aio_pika_message(), queue) for _ in batch))


async def _aio_pika_publish_each(url: str, queue: str, count: int) -> None:
    async with await aio_pika.connect(url) as connection:
        exchange = (await connection.channel(on_return_raises=True)).default_exchange
        for _ in range(count):
            await exchange.publish(_aio_pika_message(), queue)


async def _aio_pika_consume(url: str, queue: str, count: int) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=2 * BATCH)
        left, done = count, asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            nonlocal left
            await message.ack()
            left -= 1
            if left == 0:
                done.set()

        await (await channel.get_queue(queue)).consume(take)
        await done.wait()


def _aio_pika_message() -> aio_pika.Message:
    return aio_pika.Message(BODY, headers={**HEADERS}, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)


async def _declare(url: str, queue: str) -> None:
    bus = await connect_rabbit(url, name="bench")
    await bus.declare(Topology((), (Queue(queue),), ()))
    await bus.close()


async def _delete(url: str, queue: str) -> None:
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="an AMQP URL; by default a broker is found or started")
    parser.add_argument("--size", type=int, default=SIZE, help="messages in each run")
    arguments = parser.parse_args()
    with suppress(KeyboardInterrupt):
        for figure in run(arguments.url, arguments.size):
            print(figure)


if __name__ == "__main__":
    main()
