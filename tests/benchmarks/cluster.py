"""What replication costs: messages of 1 KiB on a classic durable queue, on a quorum queue, and on one of three nodes.

`python -m tests.benchmarks.cluster` starts the nodes on this machine, from a rabbitmq-server binary. They share its
CPUs and its disk: what a message costs in CPU holds elsewhere, how long it takes does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import aiormq
import uvloop

from tests.benchmarks.bus import BATCH, BODY, HEADERS, publish, take
from tests.benchmarks.consumption import cpu_seconds
from tests.support.broker import unique_organism
from tests.support.processes import SupportError
from tests.support.rabbitmq_node import RabbitMQNode, find_binary
from xml_pipeline.logs import configure_logging
from xml_pipeline.message_bus.port import Bus, Outgoing
from xml_pipeline.message_bus.rabbit import connect_rabbit
from xml_pipeline.message_bus.topology import Queue, Topology

RUNS = 3
SIZE = 10_000
ALONE = 200
NODES = 3


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of queue on the nodes that hold it."""

    name: str
    nodes: Sequence[RabbitMQNode]
    quorum: bool


@dataclass(frozen=True, slots=True)
class Run:
    """Of one run: messages a second, milliseconds for one that is published alone, CPU of all nodes in us a message."""

    published: float
    consumed: float
    alone_ms: float
    cpu_us: float


async def measure(kind: Kind) -> Run:
    """Publish and consume on a queue of its own."""
    queue, url = unique_organism("bench"), kind.nodes[0].url
    bus = await connect_rabbit(url, name="bench")
    try:
        await bus.declare(Topology((), (Queue(queue, quorum=kind.quorum),), ()))
        before = _cpu(kind)
        publishing = await _timed(publish(bus, queue, SIZE))
        consuming = await _timed(_consume(bus, queue, SIZE))
        cpu = _cpu(kind) - before
        alone = await _timed(_one_by_one(bus, queue))
    finally:
        await bus.close()
        await _delete(url, queue)
    return Run(SIZE / publishing, SIZE / consuming, 1000 * alone / ALONE, 1e6 * cpu / SIZE)


async def _timed(work: Coroutine[object, object, None]) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def _consume(bus: Bus, queue: str, count: int) -> None:
    consumer = await bus.consume(queue, prefetch=2 * BATCH)
    await take(consumer, count)
    await consumer.close()


async def _one_by_one(bus: Bus, queue: str) -> None:
    for _ in range(ALONE):
        await bus.publish([Outgoing("", queue, BODY, HEADERS)], timeout=30.0)


async def _delete(url: str, queue: str) -> None:
    async with aiormq.connect(url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue)


def _cpu(kind: Kind) -> float:
    return sum(cpu_seconds(node.pid) for node in kind.nodes)


def run() -> Iterator[str]:
    """The kinds take turns; medians."""
    nodes = _start()
    try:
        kinds = (
            Kind("classic durable, 1 node", nodes[:1], quorum=False),
            Kind("quorum, 1 node", nodes[:1], quorum=True),
            Kind(f"quorum, {NODES} nodes", nodes[1:], quorum=True),
        )
        runs: dict[str, list[Run]] = {kind.name: [] for kind in kinds}
        for _ in range(RUNS):
            for kind in kinds:
                runs[kind.name].append(uvloop.run(measure(kind)))
        yield f"{'queue':<26} published/s  consumed/s  one alone, ms  us of CPU a message"
        for name, of in runs.items():
            yield _line(name, of)
    finally:
        for node in reversed(nodes):
            node.close()


def _line(name: str, of: Sequence[Run]) -> str:
    def mid(value: Callable[[Run], float]) -> float:
        return median(map(value, of))

    return (
        f"{name:<26} {mid(lambda run: run.published):>11,.0f} {mid(lambda run: run.consumed):>11,.0f}"
        f" {mid(lambda run: run.alone_ms):>14.1f} {mid(lambda run: run.cpu_us):>20.0f}"
    )


def _start() -> list[RabbitMQNode]:
    """A node alone, and a cluster."""
    binary = find_binary()
    if binary is None:
        raise SupportError("a cluster needs a rabbitmq-server binary on this machine")
    nodes: list[RabbitMQNode] = []
    try:
        for place in range(1 + NODES):
            first = nodes[1] if place > 1 else None
            nodes.append(RabbitMQNode(binary, beside=first))
            nodes[-1].start()
            if first is not None:
                nodes[-1].join(first)
    except BaseException:
        for node in reversed(nodes):
            node.close()
        raise
    return nodes


def main() -> None:
    """Print the figures."""
    configure_logging("warning", style="console")
    for line in run():
        print(line, flush=True)


if __name__ == "__main__":
    main()
