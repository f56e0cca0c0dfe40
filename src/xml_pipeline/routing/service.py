"""The router as a service: any number of them, none of which holds anything that would be missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import beat
from xml_pipeline.health.watch import Watch as HealthWatch
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.batch import Batches, passes_again
from xml_pipeline.routing.checks import configured
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.ingress import BATCH, Ingress
from xml_pipeline.routing.intake import Intake
from xml_pipeline.routing.notices import listen, notice_bindings
from xml_pipeline.routing.observing import observe
from xml_pipeline.routing.pipeline import Pipeline
from xml_pipeline.routing.sweep import Sweep
from xml_pipeline.routing.watch import Watch
from xml_pipeline.routing.workers import LiveWorkers
from xml_pipeline.stopping import ROUTING, cancel_all
from xml_pipeline.storage import configuration, organism_state
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import require_current_schema
from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

INTERVAL = 1.0

Loop = Coroutine[None, None, None]


async def run_router(
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
    """Route until `stop` is set or the organism is asked to stop; the batch in hand is finished first.

    `asked` is set in place of `stop` when the organism is asked to: for whoever stops its services in their order.
    Raises DatabaseUnavailable, BrokerUnavailable and SchemaOutdated at the start; afterwards it waits for what is gone.
    """
    arm_failpoints()
    await require_current_schema(db)
    await bus.declare(organism_topology(organism.name, organism.listeners))
    async with db.begin() as connection:
        version = (await configuration.publish(connection, organism)).version
        started_at = await organism_state.database_time(connection)
    current = Current(configured(organism, version))
    watch = Watch(bus, db, current, started_at, asked or stop)
    metrics = metrics or Metrics()
    async with _consumers(bus, current) as (ingress, dead, notices):
        log.info("router_started", instance=instance, organism=organism.name, version=version)
        batches, consumers = Batches(db, current, metrics=metrics), (ingress, dead, notices)
        with observe(metrics, bus, db, current):
            await _run(bus, db, batches, current, watch, consumers, stop, instance, health or Health(), tracing)
    log.info("router_stopped", instance=instance)


async def _run(
    bus: Bus,
    db: Database,
    batches: Batches,
    current: Current,
    watch: Watch,
    consumers: tuple[Consumer, Consumer, Consumer],
    stop: asyncio.Event,
    instance: str,
    health: Health,
    tracing: Tracing,
) -> None:
    ingress, dead, notices = consumers
    workers = LiveWorkers(time.monotonic())
    look_now, sweep_now = asyncio.Event(), asyncio.Event()
    pipeline = Pipeline(bus, batches, current, tracing)
    sweep = Sweep(bus, db, current, pipeline, workers)
    intake = Intake(current)
    draining = (
        health.loop("ingress", Ingress(ingress, intake.ingress, pipeline, stop).run),
        health.loop("dead", Ingress(dead, intake.dead, pipeline, stop).run),
        health.loop("sweep", lambda: _each_second(sweep.round, sweep_now, stop)),
    )
    background = (
        health.loop("notices", lambda: listen(notices, current.configured.names, workers, (look_now, sweep_now))),
        health.loop("watch", lambda: _each_second(watch.look, look_now)),
        health.loop("heartbeat", lambda: _each_second(lambda: _beat(bus, current, instance))),
        health.loop("health", HealthWatch(health, lambda: bus.connected, db.ping).run),
    )
    for name, consumer in zip(("ingress", "dead", "notices"), consumers, strict=True):
        health.subscription(name, _healthy(consumer))
    health.started()

    async def finish(taking: Collection[asyncio.Future[None]]) -> None:
        """What is in hand goes to its end, and what the broker has confirmed is written down: nobody sends it again."""
        health.stopping()
        sweep_now.set()
        await asyncio.wait(taking)
        await _turn(pipeline.note_sent)

    await _until_drained(draining, background, stop, finish, db.cut)


@asynccontextmanager
async def _consumers(bus: Bus, current: Current) -> AsyncIterator[tuple[Consumer, Consumer, Consumer]]:
    names = current.configured.names
    opened: list[Consumer] = []
    try:
        opened.append(await bus.consume(names.ingress, prefetch=2 * BATCH))
        opened.append(await bus.consume(names.dead, prefetch=BATCH))
        opened.append(await bus.subscribe(notice_bindings(names)))
        yield opened[0], opened[1], opened[2]
    finally:
        await asyncio.gather(*(consumer.close() for consumer in opened))


def _healthy(consumer: Consumer) -> Callable[[], bool]:
    return lambda: consumer.healthy


async def _each_second(
    action: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None, stop: asyncio.Event | None = None
) -> None:
    """Repeat until `stop` is set, sooner when woken."""
    wake, stop = wake or asyncio.Event(), stop or asyncio.Event()
    while not stop.is_set():
        beat()
        await _turn(action)
        # Not asyncio.wait_for, which loses a cancellation on Python 3.11 when it comes with the wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await wake.wait()
        wake.clear()


async def _turn(action: Callable[[], Awaitable[None]]) -> None:
    """A database that is gone, or was quicker elsewhere, is waited for: what was not done is done in the next turn."""
    try:
        await action()
    except DatabaseUnavailable as error:
        log.warning("database_unavailable", reason=str(error))
    except Exception as error:
        if not passes_again(error):
            raise
        log.info("round_again", reason=str(error))


async def _beat(bus: Bus, current: Current, instance: str) -> None:
    now = current.configured
    heartbeat = Heartbeat(service="router", instance=instance, config_version=now.version)
    body = heartbeat.model_dump_json().encode()
    await bus.publish([Outgoing(now.names.events, "heartbeat.router", body, persistent=False)], timeout=INTERVAL)


async def _until_drained(
    draining: tuple[Loop, ...],
    background: tuple[Loop, ...],
    stop: asyncio.Event,
    finish: Callable[[Collection[asyncio.Future[None]]], Loop],
    cut: Callable[[], None],
) -> None:
    """Run all; end when the draining ones have ended. Whatever fails ends everything and is raised."""
    taking = [asyncio.ensure_future(loop) for loop in draining]
    tasks = [*taking, *map(asyncio.ensure_future, background)]
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            tasks.append(asyncio.ensure_future(finish(taking)))
            await asyncio.wait(tasks[-1:], timeout=ROUTING)
    finally:
        await cancel_all([*tasks, stopped], cut)
    for task in tasks:
        if not task.cancelled():
            task.result()
