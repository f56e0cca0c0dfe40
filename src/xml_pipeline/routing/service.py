"""The router as a service: any number of them, none of which holds anything that would be missed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.batch import Batches, passes_again
from xml_pipeline.routing.checks import configured
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.ingress import BATCH, Ingress
from xml_pipeline.routing.intake import Intake
from xml_pipeline.routing.notices import listen, notice_bindings
from xml_pipeline.routing.pipeline import Pipeline
from xml_pipeline.routing.sweep import Sweep
from xml_pipeline.routing.watch import Watch
from xml_pipeline.routing.workers import LiveWorkers
from xml_pipeline.storage import configuration, organism_state
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import require_current_schema

log = structlog.get_logger(__name__)

INTERVAL = 1.0
# Seconds that a batch in hand may take to its end once it is time to stop.
GRACE = 10.0

Loop = Coroutine[None, None, None]


async def run_router(bus: Bus, db: Database, organism: Organism, *, stop: asyncio.Event, instance: str) -> None:
    """Route until `stop` is set or the organism is asked to stop; the batch in hand is finished first.

    Raises DatabaseUnavailable, BrokerUnavailable and SchemaOutdated at the start; afterwards it waits for what is gone.
    """
    arm_failpoints()
    await require_current_schema(db)
    await bus.declare(organism_topology(organism.name, organism.listeners))
    async with db.begin() as connection:
        version = (await configuration.publish(connection, organism)).version
        started_at = await organism_state.database_time(connection)
    current = Current(configured(organism, version))
    watch = Watch(bus, db, current, started_at, stop)
    async with _consumers(bus, current) as (ingress, dead, notices):
        log.info("router_started", instance=instance, organism=organism.name, version=version)
        await _run(bus, db, current, watch, (ingress, dead, notices), stop, instance)
    log.info("router_stopped", instance=instance)


async def _run(
    bus: Bus,
    db: Database,
    current: Current,
    watch: Watch,
    consumers: tuple[Consumer, Consumer, Consumer],
    stop: asyncio.Event,
    instance: str,
) -> None:
    ingress, dead, notices = consumers
    workers = LiveWorkers(time.monotonic())
    look_now, sweep_now = asyncio.Event(), asyncio.Event()
    pipeline = Pipeline(bus, Batches(db, current), current)
    sweep = Sweep(bus, db, current, pipeline, workers)
    intake = Intake(current)
    draining = (
        Ingress(ingress, intake.ingress, pipeline, stop).run(),
        Ingress(dead, intake.dead, pipeline, stop).run(),
    )
    background = (
        listen(notices, current.configured.names, workers, (look_now, sweep_now)),
        _each_second(watch.look, look_now),
        _each_second(sweep.round, sweep_now),
        _each_second(lambda: _beat(bus, current, instance)),
    )
    await _until_drained(draining, background, stop)


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
        for consumer in opened:
            await consumer.close()


async def _each_second(action: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None) -> None:
    """Repeat for ever, sooner when woken. A database that is gone, or was quicker elsewhere, is waited for."""
    wake = wake or asyncio.Event()
    while True:
        try:
            await action()
        except DatabaseUnavailable as error:
            log.warning("database_unavailable", reason=str(error))
        except Exception as error:
            if not passes_again(error):
                raise
            log.info("round_again", reason=str(error))
        # Not asyncio.wait_for, which loses a cancellation on Python 3.11 when it comes with the wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await wake.wait()
        wake.clear()


async def _beat(bus: Bus, current: Current, instance: str) -> None:
    now = current.configured
    heartbeat = Heartbeat(service="router", instance=instance, config_version=now.version)
    body = heartbeat.model_dump_json().encode()
    await bus.publish([Outgoing(now.names.events, "heartbeat.router", body, persistent=False)], timeout=INTERVAL)


async def _until_drained(draining: tuple[Loop, ...], background: tuple[Loop, ...], stop: asyncio.Event) -> None:
    """Run all; end when the draining ones have ended. Whatever fails ends everything and is raised."""
    taking = {asyncio.ensure_future(loop) for loop in draining}
    others = {asyncio.ensure_future(loop) for loop in background}
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({*taking, *others, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            await asyncio.wait(taking, timeout=GRACE)
    finally:
        for task in (*taking, *others, stopped):
            task.cancel()
        results = await asyncio.gather(*taking, *others, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
