"""All four services in one process, on the bus in memory and a PostgreSQL of their own, or on the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from xml_pipeline.embedded_postgres import EmbeddedPostgres
from xml_pipeline.health.health import Health
from xml_pipeline.ledger.service import run_usage
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.service import run_router
from xml_pipeline.runtime import current_database, require_free_port, what_to_do
from xml_pipeline.server.gateway import run_gateway
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.messages import forget_deliveries
from xml_pipeline.storage.schema import migrate_database
from xml_pipeline.tracing.connect import connect_tracing
from xml_pipeline.worker.service import run_worker

log = structlog.get_logger(__name__)

DATA_FOLDER = ".organism"
_SERVICES = ("router", "usage", "agent-worker", "gateway")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an organism runs: its bus in memory where there is no `amqp_url`, its database in `data` without a URL."""

    host: str
    port: int
    data: Path
    amqp_url: str | None = None
    database_url: str | None = None
    worker_processes: int | None = None
    pool_size: int = 8
    allowed_hosts: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        """Where its API answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


async def run_embedded(
    organism: Organism,
    place: Place,
    *,
    stop: asyncio.Event,
    instance: str,
    health: Health | None = None,
    metrics: Metrics | None = None,
) -> None:
    """Run until `stop` is set or the organism is asked to stop; what is open goes on at the next start.

    `health` gets a part for each service, which share `metrics`; the gateway's `/livez` and `/readyz` tell of all.
    Raises Unavailable, SchemaOutdated and KeyRequired when it cannot start.
    """
    require_free_port(place.host, place.port)
    async with AsyncExitStack() as stack:
        url = place.database_url
        if url is None:
            url = await stack.enter_async_context(_own_database(place.data))
        connect = await stack.enter_async_context(_buses(place.amqp_url))
        database = await stack.enter_async_context(current_database(url, name=instance, pool_size=place.pool_size))
        if place.amqp_url is None:
            await _forget_deliveries(database)
        await _run_services(
            organism,
            place,
            connect,
            database,
            stop=stop,
            instance=instance,
            health=health or Health(),
            metrics=metrics or Metrics(),
        )


@asynccontextmanager
async def _own_database(data: Path) -> AsyncIterator[str]:
    server = EmbeddedPostgres(data)
    try:
        url = await server.start()
        await migrate_database(url)
        keeper = asyncio.create_task(server.keep_running(), name="postgres")
        try:
            yield url
        finally:
            keeper.cancel()
            await asyncio.wait([keeper])
    finally:
        await server.stop()


async def _forget_deliveries(database: Database) -> None:
    """The bus in memory begins empty: what an earlier process had out goes out again, without waiting for deadlines."""
    async with database.begin() as connection:
        if count := await forget_deliveries(connection):
            log.info("embedded_goes_on", out=count)


_Connect = Callable[[str], Coroutine[None, None, Bus]]


@asynccontextmanager
async def _buses(amqp_url: str | None) -> AsyncIterator[_Connect]:
    """A way to connect, for each service on its own; all connections are closed at the end."""
    broker = MemoryBroker()
    made: list[Bus] = []

    async def connect(name: str) -> Bus:
        with what_to_do("ORGANISM_AMQP_URL"):
            bus = await connect_bus(amqp_url, name=name) if amqp_url else broker.connect()
        made.append(bus)
        return bus

    try:
        yield connect
    finally:
        for bus in made:
            await bus.close()


async def _run_services(
    organism: Organism,
    place: Place,
    connect: _Connect,
    database: Database,
    *,
    stop: asyncio.Event,
    instance: str,
    health: Health,
    metrics: Metrics,
) -> None:
    """Run all four. What produces work stops first; router and ledger go on until that is done."""
    edge, core = asyncio.Event(), asyncio.Event()
    tracings = [connect_tracing(service, f"{service}-{instance}", organism.name) for service in _SERVICES]
    router_traces, usage_traces, worker_traces, gateway_traces = tracings
    router_bus, usage_bus, worker_bus, gateway_bus = [await connect(f"{service}-{instance}") for service in _SERVICES]
    # A stop that the organism is asked for is one of the whole: router and ledger do not leave by themselves.
    router = run_router(
        router_bus,
        database,
        organism,
        stop=core,
        instance=f"router-{instance}",
        health=health.part("router"),
        metrics=metrics,
        asked=stop,
        tracing=router_traces,
    )
    usage = run_usage(
        usage_bus,
        database,
        organism,
        stop=core,
        instance=f"usage-{instance}",
        health=health.part("usage"),
        metrics=metrics,
        asked=stop,
        tracing=usage_traces,
    )
    worker = run_worker(
        worker_bus,
        organism,
        stop=edge,
        instance=f"agent-worker-{instance}",
        processes=place.worker_processes,
        health=health.part("agent-worker"),
        metrics=metrics,
        tracing=worker_traces,
    )
    gateway = run_gateway(
        gateway_bus,
        database,
        organism,
        stop=edge,
        instance=f"gateway-{instance}",
        host=place.host,
        port=place.port,
        health=health.part("gateway"),
        metrics=metrics,
        whole=health,
        allowed_hosts=place.allowed_hosts,
        tracing=gateway_traces,
    )
    producers = [_task(worker, "worker"), _task(gateway, "gateway")]
    keepers = [_task(router, "router"), _task(usage, "usage")]
    try:
        await _until_stopped_or_ended(stop, [*producers, *keepers])
        edge.set()
        await asyncio.gather(*producers)
        core.set()
        await asyncio.gather(*keepers)
    finally:
        edge.set()
        core.set()
        await _end([*producers, *keepers])
        await asyncio.gather(*(tracing.close() for tracing in tracings))


def _task(service: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
    return asyncio.create_task(service, name=name)


async def _until_stopped_or_ended(stop: asyncio.Event, services: list[asyncio.Task[None]]) -> None:
    """Wait for the stop, or for the first service that ends: by error, or since the organism was asked to stop."""
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopped, *services], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    for service in services:
        if service.done() and not service.cancelled() and (error := service.exception()):
            raise error


async def _end(services: list[asyncio.Task[None]]) -> None:
    """Whatever still runs is cancelled: only after an error."""
    for service in services:
        service.cancel()
    await asyncio.gather(*services, return_exceptions=True)
