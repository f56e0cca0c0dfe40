"""Just enough of a router, and of a usage service, to see what a worker does."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from xml_pipeline.envelope.codec import decode_turn, encode_assignment
from xml_pipeline.envelope.model import Assignment, Envelope, Kind, Reply, Turn
from xml_pipeline.message_bus.messages import (
    ControlHint,
    HoldRelease,
    HoldReply,
    HoldRequest,
    UsageEvent,
    ledger_message,
)
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.load import load_organism
from xml_pipeline.organism.model import Organism
from xml_pipeline.worker.service import run_worker
from xml_pipeline.worker.settings import WorkerSettings

PATIENCE = 20.0


def write_organism(
    folder: Path, name: str, listeners: str, module: str, *, more: str = "", module_name: str = "zoo"
) -> Organism:
    """An organism with its module, loaded."""
    (folder / f"{module_name}.py").write_text(textwrap.dedent(module))
    head = f"organism: {{name: {name}, port: 8080{more}}}\nlisteners:\n"
    (folder / "organism.yaml").write_text(head + textwrap.indent(textwrap.dedent(listeners), "  "))
    return load_organism(folder / "organism.yaml")


def assignment(
    listener: str,
    payload: bytes,
    *,
    attempt: int = 1,
    timeout: float = 30.0,
    kind: Kind = Kind.REQUEST,
    thread: UUID | None = None,
    config: int = 1,
    remaining: int = 0,
    replies: tuple[Reply, ...] = (),
) -> Assignment:
    """A message for a listener, from `api`."""
    envelope = Envelope("api", listener, thread or uuid4(), payload)
    return Assignment(uuid4(), attempt, kind, uuid4(), config, timeout, remaining, replies, envelope)


class FakeRouter:
    """Hands out assignments, and keeps the turns that come back, by message."""

    def __init__(self, bus: Bus, names: Names) -> None:
        self.bus = bus
        self.names = names
        self.turns: dict[UUID, list[Turn]] = {}
        self._arrived = asyncio.Condition()

    async def send(self, *assignments: Assignment) -> None:
        """Hand out."""
        await self.bus.publish(
            [
                Outgoing(
                    exchange="",
                    routing_key=self.names.agent(one.envelope.to_id),
                    body=encode_assignment(one),
                    headers={"message-id": str(one.message_id), "attempt": one.attempt},
                )
                for one in assignments
            ]
        )

    async def turn(self, one: Assignment, *, count: int = 1) -> Turn:
        """The last turn of a message, when there are `count`."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.turns.get(one.message_id, ())) >= count)
        return self.turns[one.message_id][-1]

    async def ask(self, one: Assignment) -> Turn:
        """Hand out, and wait for the turn."""
        await self.send(one)
        return await self.turn(one)

    async def hint(self, hint: ControlHint) -> None:
        """Tell all services."""
        body = hint.model_dump_json().encode()
        await self.bus.publish([Outgoing(self.names.control, "", body, persistent=False)])

    async def collect(self, consumer: Consumer) -> None:
        """Keep turns, until cancelled."""
        while True:
            batch = await consumer.batch(100)
            async with self._arrived:
                for delivery in batch:
                    turn = decode_turn(delivery.body)
                    self.turns.setdefault(turn.message_id, []).append(turn)
                self._arrived.notify_all()
            await consumer.ack(batch)


class FakeLedger:
    """Answers hold requests with `decide`, and keeps all that it gets."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.held: list[HoldRequest] = []
        self.settled: list[UsageEvent] = []
        self.released: list[HoldRelease] = []
        self.decide: Callable[[HoldRequest], HoldReply | None] = granted

    async def serve(self, consumer: Consumer) -> None:
        """Answer, until cancelled."""
        while True:
            batch = await consumer.batch(100)
            for delivery in batch:
                await self._take(delivery.body, delivery.reply_to)
            await consumer.ack(batch)

    async def _take(self, body: bytes, reply_to: str | None) -> None:
        match ledger_message.validate_json(body):
            case HoldRequest() as request:
                self.held.append(request)
                reply = self.decide(request)
                if reply is not None and reply_to is not None:
                    await self._bus.publish([Outgoing("", reply_to, reply.model_dump_json().encode())])
            case UsageEvent() as event:
                self.settled.append(event)
            case HoldRelease() as release:
                self.released.append(release)


def granted(request: HoldRequest) -> HoldReply:
    """Yes."""
    return HoldReply(call_id=request.call_id, state="granted", granted_at=datetime.now(UTC), remaining=1000)


class Scene:
    """A running worker with what is around it."""

    def __init__(self, router: FakeRouter, ledger: FakeLedger, worker: asyncio.Task[None], stop: asyncio.Event) -> None:
        self.router = router
        self.ledger = ledger
        self.worker = worker
        self.stop = stop


@asynccontextmanager
async def running_worker(
    connect: Callable[[], Bus],
    organism: Organism,
    *,
    processes: int = 1,
    grace: float = 5.0,
    block_limit: float = 2.0,
    metrics: Metrics | None = None,
) -> AsyncIterator[Scene]:
    """A worker of `organism`, a router and a ledger, each on a bus of its own."""
    bus, worker_bus = connect(), connect()
    names, stop = Names(organism.name), asyncio.Event()
    settings = WorkerSettings(processes=processes, grace=grace, block_limit=block_limit)
    worker = asyncio.create_task(
        run_worker(worker_bus, organism, stop=stop, instance="w1", settings=settings, metrics=metrics)
    )
    scene = Scene(FakeRouter(bus, names), FakeLedger(bus), worker, stop)
    tasks = [worker]
    try:
        await bus.declare(organism_topology(organism.name, organism.listeners))
        ingress = await bus.consume(names.ingress, prefetch=1000)
        usage = await bus.consume(names.usage, prefetch=1000)
        tasks += [asyncio.create_task(scene.router.collect(ingress)), asyncio.create_task(scene.ledger.serve(usage))]
        yield scene
        stop.set()
        await worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await worker_bus.close()
        await bus.close()
