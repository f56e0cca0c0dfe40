"""The gateway: REST and WebSocket in front of an organism of services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import beat
from xml_pipeline.health.watch import Watch
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Bus, Outgoing
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.quiet_server import address_of, bind
from xml_pipeline.server.access.keyring import Keyring, keyring_of
from xml_pipeline.server.access.post import post_guard
from xml_pipeline.server.app import create_app
from xml_pipeline.server.feed import Hub
from xml_pipeline.server.http_server import HttpServer
from xml_pipeline.server.last_answers import LastAnswers
from xml_pipeline.server.live.catch_up import CatchUp
from xml_pipeline.server.live.configured import Configured, Current
from xml_pipeline.server.live.feed import LiveFeed
from xml_pipeline.server.live.limits import ANSWER_WITHIN
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.live.view import LiveView
from xml_pipeline.stopping import PUBLISHING, SILENCE, cancel_all
from xml_pipeline.storage import configuration
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import database_time, read_state
from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

_INTERVAL = 1.0


async def run_gateway(
    bus: Bus,
    db: Database,
    organism: Organism,
    *,
    stop: asyncio.Event,
    instance: str,
    host: str,
    port: int,
    on_listening: Callable[[int], None] | None = None,
    health: Health | None = None,
    whole: Health | None = None,
    allowed_hosts: frozenset[str] = frozenset(),
    metrics: Metrics | None = None,
    tracing: Tracing = OFF,
) -> None:
    """Serve until `stop` is set or the organism is asked to stop; any number may run at once.

    `/livez` and `/readyz` tell of `whole` where `health` is only a part of it. Port 0 takes a free one; `on_listening`
    is told the port once requests are taken. Raises Unavailable at the start, BrokerUnavailable and
    DatabaseUnavailable among them, and KeyRequired where others than this machine would reach it without a key;
    afterwards it answers as well as what is left allows.
    """
    arm_failpoints()
    address = address_of(host, port)
    async with keyring_of(db) as keyring:
        guard = await post_guard(keyring, address, allowed_hosts)
        await bus.declare(organism_topology(organism.name, organism.listeners))
        health = health or Health()
        counted = GatewayMetrics(metrics or Metrics(), organism.listeners)
        gateway = await _prepare(bus, db, organism, instance, health, whole or health, keyring, counted, tracing)
        listening = bind(address, port)
        bound: int = listening.getsockname()[1]
        limit = organism.limits.max_envelope_bytes
        requests = LastAnswers(create_app(view=gateway.view, max_body_bytes=limit, guard=guard))
        server = HttpServer(requests, listening, max_message_bytes=limit)

        def started() -> None:
            log.info("gateway.listening", organism=organism.name, instance=instance, host=host, port=bound)
            if on_listening is not None:
                on_listening(bound)

        await gateway.run(server, requests, stop, started)
    log.info("gateway.stopped", organism=organism.name, instance=instance)


async def _prepare(
    bus: Bus,
    db: Database,
    organism: Organism,
    instance: str,
    health: Health,
    told: Health,
    keyring: Keyring,
    metrics: GatewayMetrics,
    tracing: Tracing,
) -> _Gateway:
    async with db.begin() as connection:
        published = await configuration.publish(connection, organism)
        started_at = await database_time(connection)
    current = Current(await asyncio.to_thread(Configured.of, organism, published.version))
    db = db.within(ANSWER_WITHIN)
    names = Names(organism.name)
    hub, outbox, poke = Hub(), Outbox(bus, names), asyncio.Event()
    feed = LiveFeed(names, current, hub, poke.set, metrics)
    await feed.open(bus)
    view = LiveView(bus, db, current, feed, hub, outbox, started_at, told, metrics, tracing)
    catch_up = CatchUp(db, current, feed, hub)
    return _Gateway(bus, db, view, feed, outbox, catch_up, keyring, poke, started_at, instance, health)


@dataclass
class _Gateway:
    """One instance: its parts, and the loops that keep them going."""

    bus: Bus
    db: Database
    view: LiveView
    feed: LiveFeed
    outbox: Outbox
    catch_up: CatchUp
    keyring: Keyring
    poke: asyncio.Event
    started_at: datetime
    instance: str
    health: Health

    def __post_init__(self) -> None:
        self._organism_stops = asyncio.Event()

    async def run(
        self, server: HttpServer, requests: LastAnswers, stop: asyncio.Event, started: Callable[[], None]
    ) -> None:
        """Serve until one of the two asks to stop; requests under way are answered, what they accepted is published."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve())
            loops = [group.create_task(loop) for loop in self._loops()]
            await server.wait_started()
            self.health.started()
            started()
            await _first_of(stop.wait(), self._organism_stops.wait(), asyncio.shield(serving))
            self.health.stopping()
            server.stop()
            await self._answered(serving, requests)
            await self._end(loops)

    def _loops(self) -> Sequence[Coroutine[None, None, None]]:
        loop = self.health.loop
        # Without the broker, injects are still accepted: it is told of, and not needed.
        watch = Watch(self.health, lambda: self.bus.connected, self.db.ping, broker_needed=False)
        self.health.subscription("feed", lambda: self.feed.healthy, needed=False)
        return (
            loop("injects", self.view.injector.run),
            loop("outbox", self.outbox.run),
            loop("feed", self.feed.run),
            loop("keys", self.keyring.run),
            loop("heartbeat", lambda: _each_second(self._heartbeat)),
            loop("watch", lambda: _each_second(self._watch, self.poke)),
            loop("catch-up", lambda: _each_second(self.catch_up.step)),
            loop("health", watch.run),
        )

    async def _answered(self, serving: asyncio.Task[None], requests: LastAnswers) -> None:
        """Nobody waits any longer for what may come back, and soon for nothing at all."""
        self.feed.give_up_waiting()
        done, _ = await asyncio.wait({serving}, timeout=SILENCE)
        if not done:
            requests.give_up()
            self.db.cut()  # who is in the middle of a statement would wait for the database once more
        await serving

    async def _end(self, loops: list[asyncio.Task[None]]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PUBLISHING):
                await self.outbox.flush()
        await cancel_all(loops, self.db.cut)
        await self.feed.close()

    async def _heartbeat(self) -> None:
        current = self.view.current
        heartbeat = Heartbeat(service="gateway", instance=self.instance, config_version=current.value.version)
        body = heartbeat.model_dump_json().encode()
        self.outbox.add([Outgoing(Names(current.organism.name).events, "heartbeat.gateway", body, persistent=False)])

    async def _watch(self) -> None:
        async with self.db.begin() as connection:
            state = await read_state(connection)
        if state.stops(self.started_at):
            self._organism_stops.set()
        await self.view.reloader.follow()


async def _each_second(step: Callable[[], Awaitable[None]], poke: asyncio.Event | None = None) -> None:
    """Every second, and at once when poked."""
    poke = poke or asyncio.Event()
    while True:
        beat()
        poke.clear()
        try:
            await step()
        except DatabaseUnavailable as error:
            log.warning("gateway.waits_for_database", error=str(error))
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL):
                await poke.wait()


async def _first_of(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
