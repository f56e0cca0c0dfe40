"""Turns per second, whole: router, worker, ledger, gateway; embedded, and as processes on RabbitMQ and PostgreSQL."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median

import asyncpg
import httpx

from tests.benchmarks import raw_relay
from tests.benchmarks.figures import Figure
from tests.support.broker import unique_organism
from tests.support.fleet import HOST, Fleet, running
from tests.support.organisms import renamed
from tests.support.postgres import start_postgres
from tests.support.processes import free_port
from xml_pipeline.embedded import Place, run_embedded
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.schema import migrate

PINGPONG = Path(__file__).parent / "pingpong"
RUNS = 3
THREADS = 300
PASSES = 10
TEXT = "word " * 160
LIMIT = 300.0
RAW = "aio-pika relay, no XML, no database"
ONE_OF_EACH = {"gateway": 1, "router": 1, "usage": 1, "agent-worker": 1}

Rate = Callable[[], AbstractAsyncContextManager[tuple[str, str]]]


async def run(amqp_url: str) -> list[Figure]:
    """A turn is one run of a handler: its message routed, handed out, handled, reported, booked.

    The three take turns, so that the machine's drift is in all of them; medians of `RUNS` each.
    """
    embedded, fleet, raw = [], [], []
    for _ in range(RUNS):
        embedded.append(await _measure(_embedded))
        raw.append(await _raw(amqp_url))
        fleet.append(await _measure(partial(_fleet, amqp_url)))
    return [
        Figure("turns, embedded: 1 process, bus in memory", median(embedded), RAW, median(raw)),
        Figure("turns, RabbitMQ + PostgreSQL: 1 router, 1 worker", median(fleet), RAW, median(raw)),
    ]


async def _raw(amqp_url: str) -> float:
    """As many messages on the same way through a broker, as many under way at once."""
    return await raw_relay.run(amqp_url, threads=THREADS, laps=2 * PASSES + 1, body=TEXT.encode())


async def _measure(place: Rate) -> float:
    async with place() as (url, database_url):
        connection = await asyncpg.connect(database_url)
        try:
            await _play(url, connection)
            return await _rate(connection)
        finally:
            await connection.close()


async def _play(url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """All threads are accepted before the first may go, so that injecting is not in the figure."""
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30.0) as client:
        await _until_running(client)
        (await client.post("/agents/ping/pause")).raise_for_status()
        ball = {"to": "ping", "payload": {"left": PASSES, "to": "ping", "text": TEXT}}
        for answer in await asyncio.gather(*(client.post("/inject", json=ball) for _ in range(THREADS))):
            answer.raise_for_status()
        await _until(connection, "select count(*) = $1 from messages", THREADS)
        (await client.post("/agents/ping/resume")).raise_for_status()
        await _until(connection, "select count(*) = $1 from threads where status = 'completed'", THREADS)


async def _rate(connection: asyncpg.Connection[asyncpg.Record]) -> float:
    count, seconds = await connection.fetchrow(
        "select count(*), extract(epoch from max(t.created_at) - min(m.sent_at))::float"
        " from turns t join messages m on m.id = t.message_id"
    )
    return float(count / seconds)


async def _until_running(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(LIMIT):
        while not await _runs(client):  # noqa: ASYNC110 - another process starts
            await asyncio.sleep(0.1)


async def _runs(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/organism")
    except httpx.TransportError:
        return False
    return answer.is_success and answer.json()["status"] == "running"


async def _until(connection: asyncpg.Connection[asyncpg.Record], condition: str, *values: object) -> None:
    async with asyncio.timeout(LIMIT):
        while not await connection.fetchval(condition, *values):  # noqa: ASYNC110 - a row has no event
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _embedded() -> AsyncIterator[tuple[str, str]]:
    databases = start_postgres(migrate=migrate, durable=True)
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        database_url = await asyncio.to_thread(databases.create_database)
        place = Place(HOST, free_port(), Path(folder), database_url=database_url)
        running_organism = asyncio.create_task(
            run_embedded(load_organism(PINGPONG / "organism.yaml"), place, stop=stop, instance="bench")
        )
        try:
            yield place.url, database_url
        finally:
            stop.set()
            await running_organism
            databases.close()


@asynccontextmanager
async def _fleet(amqp_url: str) -> AsyncIterator[tuple[str, str]]:
    databases = start_postgres(migrate=migrate, durable=True)
    with tempfile.TemporaryDirectory() as folder:
        database_url = await asyncio.to_thread(databases.create_database)
        organism = renamed(PINGPONG, unique_organism("bench"), Path(folder) / "organism")
        fleet = Fleet(organism, amqp_url, database_url, Path(folder))
        try:
            with running(fleet, ONE_OF_EACH):
                yield fleet.urls()[0], database_url
        finally:
            databases.close()
