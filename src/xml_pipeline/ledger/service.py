"""The usage service: books LLM usage and guards the budgets of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import datetime

import structlog

from xml_pipeline.errors import DatabaseUnavailable, InvalidOrganism
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import beat
from xml_pipeline.health.watch import Watch
from xml_pipeline.ledger.consumer import AT_ONCE, BATCH, Bookkeeper, collect_rarely
from xml_pipeline.ledger.metrics import observe
from xml_pipeline.ledger.upkeep import keep_months
from xml_pipeline.ledger.webhooks import WebhookSender
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.load import parse_organism
from xml_pipeline.organism.model import Organism
from xml_pipeline.stopping import BOOKING, LAST_BATCH, cancel_all
from xml_pipeline.storage import configuration
from xml_pipeline.storage.budget_tree import set_limits
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.ledger import any_hold_open
from xml_pipeline.storage.organism_state import database_time, read_state
from xml_pipeline.storage.schema import require_current_schema
from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

PREFETCH = AT_ONCE * BATCH
_INTERVAL = 1.0
_QUIET = 0.2


async def run_usage(
    bus: Bus,
    db: Database,
    organism: Organism,
    *,
    stop: asyncio.Event,
    instance: str,
    health: Health | None = None,
    asked: asyncio.Event | None = None,
    metrics: Metrics | None = None,
    tracing: Tracing = OFF,
) -> None:
    """Serve until `stop` is set or the organism is asked to stop; any number may run at once.

    `asked` is set in place of `stop` when the organism is asked to: for whoever stops its services in their order.
    Raises DatabaseUnavailable, SchemaOutdated and BrokerUnavailable at the start; afterwards it waits for what is gone.
    """
    arm_failpoints()
    collect_rarely()
    await require_current_schema(db)
    await bus.declare(organism_topology(organism.name, organism.listeners))
    async with db.begin() as connection:
        version = (await configuration.publish(connection, organism)).version
        started_at = await database_time(connection)
    await set_limits(db, organism.budgets)
    metrics = metrics or Metrics()
    books = Bookkeeper(bus, db, organism, metrics, tracing)
    service = _Usage(bus, db, organism, books, instance, version, started_at, stop, health or Health(), asked or stop)
    with observe(metrics, bus, db, Names(organism.name).usage):
        await service.run()


class _Usage:
    """One instance: its loops, and what they share."""

    def __init__(
        self,
        bus: Bus,
        db: Database,
        organism: Organism,
        books: Bookkeeper,
        instance: str,
        version: int,
        started_at: datetime,
        stop: asyncio.Event,
        health: Health,
        asked: asyncio.Event,
    ) -> None:
        self._bus = bus
        self._db = db
        self._organism = organism
        self._instance = instance
        self._version = version
        self._started_at = started_at
        self._names = Names(organism.name)
        self._books = books
        self._webhooks = WebhookSender(db, health)
        self._webhooks.configure(organism.budgets.webhook)
        self._stop = stop
        self._asked = asked
        self._health = health
        self._enough = asyncio.Event()

    async def run(self) -> None:
        consumer = await self._bus.consume(self._names.usage, prefetch=PREFETCH)
        self._health.subscription("usage", lambda: consumer.healthy)
        log.info("usage_started", organism=self._organism.name, instance=self._instance)
        try:
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(loop) for loop in self._loops(consumer)]
                self._health.started()
                await self._stop.wait()
                self._health.stopping()
                idle = await self._drain()
                await cancel_all([idle, *loops], self._db.cut)
        finally:
            await consumer.close()
            await self._webhooks.close()
        log.info("usage_stopped", organism=self._organism.name, instance=self._instance)

    def _loops(self, consumer: Consumer) -> Sequence[Coroutine[None, None, None]]:
        loop = self._health.loop
        return (
            *(loop(f"usage-{number}", lambda: self._consume(consumer)) for number in range(1, AT_ONCE + 1)),
            loop("heartbeat", lambda: _each_second(self._heartbeat)),
            loop("sweep", lambda: _each_second(self._sweep)),
            loop("webhooks", lambda: _each_second(self._webhooks.send_due)),
            loop("months", lambda: keep_months(self._db)),
            loop("watch", lambda: _each_second(self._watch)),
            loop("health", Watch(self._health, lambda: self._bus.connected, self._db.ping).run),
        )

    async def _consume(self, consumer: Consumer) -> None:
        while not self._enough.is_set():
            await self._books.consume(consumer)

    async def _heartbeat(self) -> None:
        heartbeat = Heartbeat(service="usage", instance=self._instance, config_version=self._version)
        body = heartbeat.model_dump_json().encode()
        beat = Outgoing(self._names.events, "heartbeat.usage", body, persistent=False)
        await self._bus.publish([beat], timeout=_INTERVAL)

    async def _sweep(self) -> None:
        await self._books.sweep()

    # What is asked of the whole organism

    async def _watch(self) -> None:
        async with self._db.begin() as connection:
            state = await read_state(connection)
            version = await configuration.latest_version(connection)
            latest = await configuration.latest(connection) if version > self._version else None
        if state.stops(self._started_at):
            self._asked.set()
        if latest is not None:
            await self._reconfigure(latest)

    async def _reconfigure(self, latest: configuration.Configuration) -> None:
        self._version = latest.version
        try:
            self._organism = await asyncio.to_thread(parse_organism, latest.text, self._organism.folder)
        except InvalidOrganism as error:
            log.warning("configuration_refused", version=latest.version, error=str(error))
            return
        self._books.configure(self._organism)
        self._webhooks.configure(self._organism.budgets.webhook)
        await set_limits(self._db, self._organism.budgets)
        log.info("configuration_changed", version=latest.version)

    async def _drain(self) -> asyncio.Future[None]:
        """Go on until what has arrived is booked, and, where the whole organism stops, no call is under way.

        What still arrives then is left to others; the batches in hand go to their end.
        """
        idle = asyncio.ensure_future(self._until_idle())
        await asyncio.wait({idle}, timeout=BOOKING)
        self._enough.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._books.until_idle(), LAST_BATCH)
        return idle

    async def _until_idle(self) -> None:
        while True:
            if not await self._busy():
                return
            await asyncio.sleep(_QUIET)

    async def _busy(self) -> bool:
        if self._books.busy or await self._bus.depth(self._names.usage):
            return True
        try:
            async with self._db.begin() as connection:
                stops = (await read_state(connection)).stops(self._started_at)
                return stops and await any_hold_open(connection)
        except DatabaseUnavailable:
            return False


async def _each_second(step: Callable[[], Awaitable[object]]) -> None:
    while True:
        beat()
        try:
            await step()
        except DatabaseUnavailable as error:
            log.warning("usage_waits_for_database", error=str(error))
        await asyncio.sleep(_INTERVAL)
