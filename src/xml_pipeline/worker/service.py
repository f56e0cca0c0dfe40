"""The agent-worker: serves listeners until it is asked to stop. No handler's code runs in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import structlog
from pydantic import ValidationError

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import beat, rest
from xml_pipeline.health.watch import Watch
from xml_pipeline.message_bus.messages import ControlHint, Heartbeat
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Binding, Names, Topology, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.stopping import LAST_TURNS
from xml_pipeline.tracing.port import OFF, Tracing
from xml_pipeline.worker.desk import Desk
from xml_pipeline.worker.intake import Intake
from xml_pipeline.worker.ledger_client import LedgerClient
from xml_pipeline.worker.ledger_desk import LedgerDesk
from xml_pipeline.worker.metrics import WorkerMetrics
from xml_pipeline.worker.outbox import Outbox
from xml_pipeline.worker.pool import ChildFailed, Source
from xml_pipeline.worker.reloads import Reload, Reloads
from xml_pipeline.worker.settings import WorkerSettings
from xml_pipeline.worker.tasks import end_tasks
from xml_pipeline.worker.wire import Ready

log = structlog.get_logger(__name__)

_HEARTBEAT = 1.0
_LOOK_WHILE_DRAINING = 0.05
_MOST_HINTS = 100
# A reload starts new children, which may import a lot.
_RELOAD_LIMIT = 180.0


async def run_worker(
    bus: Bus,
    organism: Organism,
    *,
    stop: asyncio.Event,
    instance: str,
    processes: int | None = None,
    settings: WorkerSettings | None = None,
    health: Health | None = None,
    metrics: Metrics | None = None,
    tracing: Tracing = OFF,
) -> None:
    """Run handlers of `organism` until `stop` is set or a stop hint comes; then finish what runs.

    Raises InvalidInput, BrokerUnavailable and ChildFailed at the start; later it survives the loss of either.
    """
    arm_failpoints()
    chosen = settings or WorkerSettings.from_environment(processes=processes)
    chosen.require_known(organism.listeners)
    worker = Worker(bus, organism, chosen, instance, health or Health(), metrics or Metrics(), tracing)
    await worker.run(stop)


class Worker:
    """The parts of one agent-worker, and its life."""

    def __init__(
        self,
        bus: Bus,
        organism: Organism,
        settings: WorkerSettings,
        instance: str,
        health: Health,
        metrics: Metrics,
        tracing: Tracing = OFF,
    ) -> None:
        self._bus = bus
        self._names = Names(organism.name)
        self._organism = organism
        self._settings = settings
        self._instance = instance
        self._health = health
        self._listeners: tuple[str, ...] = tuple(organism.listeners)
        self._concurrency = organism.max_concurrent_handlers
        self._version = 0
        self._reloads = Reloads()
        self._stop = asyncio.Event()
        self._outbox = Outbox(bus, self._topology)
        self._metrics = WorkerMetrics(metrics)
        self._ledger = LedgerClient(bus, self._names, self._outbox, self._metrics)
        source = Source(organism.text, str(organism.folder))
        counted, ledger = self._metrics, LedgerDesk(self._ledger, self._metrics, tracing)
        self._desk = Desk(self._names, source, settings, self._outbox, ledger, self._saw_version, counted, tracing)
        self._intake = Intake(bus, self._names, self._desk.accept, health)

    async def run(self, stop: asyncio.Event) -> None:
        """Start, serve, drain."""
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._bus.declare(self._topology())
            first = (("children", self._desk.pool.run), ("outbox", self._outbox.run))
            tasks = [asyncio.create_task(self._health.loop(name, part)) for name, part in first]
            self._adopt(await self._desk.pool.start())
            await self._ledger.open()
            hints = await self._bus.subscribe([Binding(self._names.control, "")])
            tasks += [asyncio.create_task(part) for part in self._parts(hints)]
            await self._intake.serve(self._served, self._concurrency)
            self._tell_needs(hints)
            log.info("worker_ready", instance=self._instance, listeners=self._served)
            await self._until_stopped(stop, tasks)
            await self._drain()
        finally:
            await self._end(tasks)

    def _parts(self, hints: Consumer) -> Sequence[Coroutine[object, object, None]]:
        loop = self._health.loop
        return (
            loop("ledger", self._ledger.run),
            loop("acks", self._desk.run_acks),
            loop("heartbeat", self._heartbeats),
            loop("hints", lambda: self._hints(hints)),
            loop("reload", self._reload_loop, limit=_RELOAD_LIMIT),
            loop("health", Watch(self._health, lambda: self._bus.connected).run),
        )

    def _tell_needs(self, hints: Consumer) -> None:
        self._health.subscription("queues", lambda: set(self._served) <= set(self._intake.healthy))
        self._health.subscription("ledger", lambda: self._ledger.healthy)
        self._health.subscription("hints", lambda: hints.healthy)
        self._health.condition("child", lambda: self._desk.pool.ready)
        self._metrics.tell(
            self._desk.listeners_in_hand,
            served=lambda: (self._served, self._concurrency),
            children=lambda: self._desk.pool.size,
            wanted=lambda: self._ledger.wanted,
        )
        self._health.started()

    async def _until_stopped(self, stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Raises what a part died of: a worker with a dead part must not look alive."""
        asked = [asyncio.create_task(event.wait()) for event in (stop, self._stop)]
        done, _ = await asyncio.wait((*asked, *tasks), return_when=asyncio.FIRST_COMPLETED)
        for task in asked:
            task.cancel()
        for part in done.intersection(tasks):
            part.result()

    async def _drain(self) -> None:
        """Finish what runs, as long as the grace time allows; the broker gives the rest to others."""
        log.info("worker_stopping", instance=self._instance)
        self._health.stopping()
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._settings.grace
        await self._intake.stop()
        while loop.time() < limit:
            await self._desk.give_back_waiting()
            await self._intake.release(keep=self._desk.busy_listeners)
            if self._desk.idle:
                return
            await asyncio.sleep(_LOOK_WHILE_DRAINING)
        await self._give_up()

    async def _give_up(self) -> None:
        """End the children, and then let go the turns of handlers that have ended before that."""
        await self._desk.pool.close()
        loop = asyncio.get_running_loop()
        limit = loop.time() + LAST_TURNS
        while loop.time() < limit and not self._outbox.empty:  # noqa: ASYNC110 as rarely as the grace is used up
            await asyncio.sleep(_LOOK_WHILE_DRAINING)
        log.warning("worker_gave_back", instance=self._instance, listeners=sorted(self._desk.busy_listeners))

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        await end_tasks(tasks)
        await self._desk.pool.close()
        await self._desk.ack_confirmed()
        await asyncio.gather(self._intake.release(keep=()), self._ledger.close())

    # What it serves

    @property
    def _served(self) -> tuple[str, ...]:
        wanted = self._settings.listeners
        return tuple(name for name in self._listeners if wanted is None or name in wanted)

    def _topology(self) -> Topology:
        return organism_topology(self._names.organism, self._listeners)

    def _adopt(self, ready: Ready) -> None:
        self._listeners = ready.listeners
        self._concurrency = ready.concurrency

    async def _heartbeats(self) -> None:
        while True:
            beat()
            await self._bus.publish([self._heartbeat()], timeout=_HEARTBEAT)
            await asyncio.sleep(_HEARTBEAT)

    def _heartbeat(self) -> Outgoing:
        beat = Heartbeat(
            service="agent-worker",
            instance=self._instance,
            listeners=self._intake.healthy if self._desk.pool.ready else (),
            capacity=self._concurrency,
            config_version=self._version,
        )
        return Outgoing(
            exchange=self._names.events,
            routing_key="heartbeat.agent-worker",
            body=beat.model_dump_json().encode(),
            persistent=False,
        )

    # What it is told

    async def _hints(self, consumer: Consumer) -> None:
        try:
            while True:
                for delivery in await rest(consumer.batch(_MOST_HINTS)):
                    self._hint(delivery.body)
        finally:
            await consumer.close()

    def _hint(self, body: bytes) -> None:
        try:
            hint = ControlHint.model_validate_json(body)
        except ValidationError:
            log.warning("hint_not_understood", size=len(body))
            return
        if hint.kind == "stop":
            self._stop.set()
        elif hint.kind == "kill" and hint.thread_id is not None:
            self._desk.kill(hint.thread_id)
        elif hint.kind == "reload":
            self._reloads.want(Reload(hint.config_version or self._version + 1, hint.text))

    def _saw_version(self, version: int) -> None:
        """An assignment's version. The first one is that of the file we started with, as far as anyone knows."""
        if self._version == 0:
            self._version = version
        elif version > self._version:
            self._reloads.want(Reload(version, None))

    async def _reload_loop(self) -> None:
        while True:
            reload = await rest(self._reloads.next())
            if reload.version > self._version:
                self._version = reload.version
                await self._reload(reload)

    async def _reload(self, reload: Reload) -> None:
        try:
            text = await asyncio.to_thread(self._read_file) if reload.text is None else reload.text
            self._adopt(await self._desk.pool.replace(Source(text, str(self._organism.folder))))
        except (OSError, UnicodeDecodeError, ChildFailed) as error:
            log.warning("reload_failed", version=reload.version, error=str(error))
            return
        log.info("reloaded", version=reload.version, listeners=self._listeners)
        await self._serve_anew()

    def _read_file(self) -> str:
        return (self._organism.file or self._organism.folder / "organism.yaml").read_text(encoding="utf-8")

    async def _serve_anew(self) -> None:
        while True:
            try:
                await self._bus.declare(self._topology())
                await self._intake.serve(self._served, self._concurrency)
            except BrokerUnavailable as error:
                beat()
                log.warning("broker_gone_at_reload", error=str(error))
                await asyncio.sleep(1.0)
            else:
                return
