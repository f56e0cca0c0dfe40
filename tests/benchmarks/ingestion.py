"""Usage events from RabbitMQ into PostgreSQL by one usage service, and booking into a table that is full already.

`SIZE` events (1,000,000 unless the environment says so) each settle a hold, in one of a thousand threads. The rate is
that of the service alone: it begins with the first event booked, when all have been published.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg

from tests.benchmarks import usage
from tests.benchmarks.figures import Figure, per_second
from tests.support.fleet import ROOT, Fleet
from tests.support.organisms import renamed
from tests.support.postgres import start_postgres
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.port import Bus, Outgoing
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate

SIZE = int(os.environ.get("SIZE", "1000000"))
ORGANISM = "ingestion"
PUBLISHED_AT_ONCE = 5000
FLAT_RUNS, FLAT_EVENTS = 7, 20_000

# As many as a table has after `SIZE` calls of the same month, by hundreds of thousands of threads.
_FILL = """
insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
    latency_us, cost, kind, period, granted_at)
select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'agent' || n % 20, 'grok-4.1', 'xai', 100, 10, 1000,
    0.00045, 'measured', 1, now() - random() * interval '1 hour'
from generate_series(1, $1::bigint) as n
"""


def run(amqp_url: str) -> Iterator[Figure]:
    """On a PostgreSQL that waits for the disk, as one in production does."""
    databases = start_postgres(migrate=migrate, durable=True)
    try:
        yield asyncio.run(through_the_broker(amqp_url, databases.create_database()))
        yield asyncio.run(into_a_full_table(databases.create_database(), databases.create_database()))
    finally:
        databases.close()


async def through_the_broker(amqp_url: str, database_url: str) -> Figure:
    """Events booked by a service that takes them from its queue, beside COPY of the same rows."""
    db = Database.connect(database_url, pool_size=1, max_overflow=0, application_name="bench", command_timeout=None)
    raw = await asyncpg.connect(database_url)
    try:
        with tempfile.TemporaryDirectory() as folder:
            organism = renamed(ROOT / "examples" / "hello-world", ORGANISM, Path(folder) / "organism")
            await _publish(amqp_url, organism, await usage.granted(db, random.Random(1), SIZE))
            fleet = Fleet(organism, amqp_url, database_url, Path(folder))
            try:
                fleet.start("usage")
                booked = await _time_to_book(raw)
            finally:
                fleet.stop()
        await usage.empty_copy(raw)
        copied = await usage.copy(raw)
    finally:
        await raw.close()
        await db.close()
    name = f"{SIZE:,} usage events from RabbitMQ, booked by one service"
    return Figure(name, SIZE / booked, "COPY", SIZE / copied)


async def into_a_full_table(full_url: str, empty_url: str) -> Figure:
    """Events booked with `SIZE` there already, beside a database that begins empty; turn by turn."""
    took: dict[str, list[float]] = {full_url: [], empty_url: []}
    raw = await asyncpg.connect(full_url)
    await raw.execute(_FILL, SIZE)
    await raw.execute("vacuum analyze usage_events")
    await raw.close()
    chance = random.Random(1)
    for _ in range(FLAT_RUNS):
        for url, times in took.items():
            db = Database.connect(url, pool_size=1, max_overflow=0, application_name="bench", command_timeout=None)
            times.append(await usage.book(db, await usage.granted(db, chance, FLAT_EVENTS)))
            await db.close()
    full, empty = (per_second(FLAT_EVENTS, times) for times in took.values())
    return Figure(f"usage events booked, with {SIZE:,} there already", full, "an empty table", empty)


async def _publish(amqp_url: str, organism: Path, events: Sequence[bytes]) -> None:
    bus: Bus = await connect_bus(amqp_url, name="bench")
    try:
        loaded = load_organism(organism)
        await bus.declare(organism_topology(loaded.name, loaded.listeners))
        queue = Names(loaded.name).usage
        for start in range(0, len(events), PUBLISHED_AT_ONCE):
            await bus.publish([Outgoing("", queue, event) for event in events[start : start + PUBLISHED_AT_ONCE]])
    finally:
        await bus.close()


async def _time_to_book(raw: asyncpg.Connection[asyncpg.Record]) -> float:
    """Seconds from the first events booked to the last, for all of them."""
    first = await _until_booked(raw, 1)
    begun = time.perf_counter()
    await _until_booked(raw, SIZE)
    return (time.perf_counter() - begun) * SIZE / (SIZE - first)


async def _until_booked(raw: asyncpg.Connection[asyncpg.Record], count: int) -> int:
    limit = time.monotonic() + 600
    while (booked := await raw.fetchval("select requests from budgets where level = 0")) < count:
        if time.monotonic() > limit:
            raise TimeoutError(f"{booked} of {count} events were booked within 600 seconds")
        await asyncio.sleep(0.02)
    return int(booked)
