"""Usage events booked per second by the ledger's own transactions, beside a plain COPY of the same rows.

One connection each, the same database, interleaved runs. Every event settles a hold that was granted before, in one of
a thousand threads: parsing, locks, budget, hold, event and hourly rollup are all in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
from sqlalchemy import insert, text

from tests.benchmarks.figures import Figure, per_second
from tests.support.postgres import start_postgres
from xml_pipeline.ledger import books
from xml_pipeline.ledger.consumer import AT_ONCE, BATCH, collect_rarely
from xml_pipeline.ledger.intake import parse_ledger_message
from xml_pipeline.ledger.model import Rules
from xml_pipeline.ledger.slices import in_slices
from xml_pipeline.llm.pricing import Prices
from xml_pipeline.message_bus.messages import UsageEvent
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.storage import ledger as rows
from xml_pipeline.storage import tables
from xml_pipeline.storage.budget_tree import add_thread_budgets
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.ledger_rows import Hold, HoldState
from xml_pipeline.storage.schema import migrate

SIZE = 20_000
RUNS = 3
THREADS = 1000
MODELS = (("xai", "grok-4.1"), ("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("openai", "nobody-knows-it"))
PRICING = Prices().cost
# A thousand threads share this much; nothing is denied.
PLENTY = 10**12

_COPIED = [
    "call_id",
    "message_id",
    "thread_id",
    "agent_id",
    "model",
    "provider",
    "prompt_tokens",
    "completion_tokens",
    "latency_us",
    "cost",
    "price_id",
    "kind",
    "period",
    "granted_at",
    "booked_at",
]


def run() -> list[Figure]:
    """On a PostgreSQL that waits for the disk, as one in production does."""
    databases = start_postgres(migrate=migrate, durable=True)
    try:
        return asyncio.run(figures(databases.create_database()))
    finally:
        databases.close()


async def figures(url: str, size: int = SIZE) -> list[Figure]:
    """The figure, with COPY of the same run beside it. `url` is a database with the current schema."""
    db = Database.connect(url, pool_size=1, max_overflow=0, application_name="bench", command_timeout=None)
    raw = await asyncpg.connect(url)
    collect_rarely()
    chance = random.Random(1)
    booked, copied = [], []
    try:
        for _ in range(RUNS):
            await _empty(raw)
            events = await granted(db, chance, size)
            booked.append(await book(db, events))
            copied.append(await copy(raw))
    finally:
        await raw.close()
        await db.close()
    return [
        Figure(
            "usage events booked, holds and rollups included",
            per_second(size, booked),
            "COPY",
            per_second(size, copied),
        )
    ]


async def _empty(raw: asyncpg.Connection) -> None:
    await raw.execute("truncate threads, holds, usage_events, usage_rollups, latency_rollups, prices cascade")
    await raw.execute("delete from budgets where level > 0; update budgets set held = 0")
    await empty_copy(raw)


async def empty_copy(raw: asyncpg.Connection) -> None:
    """A table like that of the events, with nothing in it."""
    await raw.execute("drop table if exists copied; create table copied (like usage_events including all)")


async def granted(db: Database, chance: random.Random, size: int) -> list[bytes]:
    """Grant `size` holds, and return the events that settle them."""
    threads = [UUID(int=chance.getrandbits(128)) for _ in range(THREADS)]
    holds = [_hold(chance, threads) for _ in range(size)]
    async with db.begin() as connection:
        await connection.execute(insert(tables.threads), [{"id": thread} for thread in threads])
        await add_thread_budgets(connection, threads, PLENTY, Budgets())
        await rows.add_holds(connection, holds)
        await connection.execute(
            text(
                """
                update budgets set held = sums.held
                from (select thread_id, sum(prompt_bound + cast(max_completion as bigint)) as held from holds
                      group by grouping sets ((thread_id), ())) as sums
                where budgets.id = sums.thread_id or (budgets.level = 0 and sums.thread_id is null)
                """
            )
        )
    async with db.begin() as connection:
        await connection.execute(text("analyze holds, budgets"))
    return [_event(chance, hold) for hold in chance.sample(holds, size)]


def _hold(chance: random.Random, threads: Sequence[UUID]) -> Hold:
    provider, model = chance.choice(MODELS)
    # As usage comes: of calls that were granted within the last minutes.
    now = datetime.now(UTC) - timedelta(seconds=chance.randrange(300))
    return Hold(
        call_id=UUID(int=chance.getrandbits(128)),
        message_id=UUID(int=chance.getrandbits(128)),
        thread_id=chance.choice(threads),
        agent_id=f"agent{chance.randrange(20)}",
        model=model,
        provider=provider,
        prompt_bound=4000,
        max_completion=1000,
        state=HoldState.HELD,
        period=1,
        granted_at=now,
        expires_at=now + timedelta(days=7),
    )


def _event(chance: random.Random, hold: Hold) -> bytes:
    event = UsageEvent(
        call_id=hold.call_id,
        message_id=hold.message_id,
        granted_at=hold.granted_at,
        model=hold.model,
        provider=hold.provider,
        prompt_tokens=chance.randrange(50, 4000),
        completion_tokens=chance.randrange(1, 1000),
        latency_ms=chance.random() * 9000,
    )
    return event.model_dump_json().encode()


async def book(db: Database, events: Sequence[bytes]) -> float:
    """Seconds to parse and book these events, as many batches at once as the service has under way."""
    batches = iter([events[start : start + BATCH] for start in range(0, len(events), BATCH)])
    turn = asyncio.Lock()

    async def consume() -> None:
        for batch in batches:
            messages = [parse_ledger_message(event) async for part in in_slices(batch) for event in part]
            await books.book(db, messages, rules=Rules(PLENTY), pricing=PRICING, turn=turn)

    started = time.perf_counter()
    await asyncio.gather(*(consume() for _ in range(AT_ONCE)))
    return time.perf_counter() - started


async def copy(raw: asyncpg.Connection) -> float:
    """Seconds to COPY all events once more."""
    columns = ", ".join(_COPIED)
    records = [tuple(record) for record in await raw.fetch(f"select {columns} from usage_events")]  # noqa: S608
    started = time.perf_counter()
    await raw.copy_records_to_table("copied", records=records, columns=_COPIED)
    return time.perf_counter() - started


def main() -> None:
    """Measure on the database that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="postgresql:// URL of a database with the current schema; its usage is deleted")
    parser.add_argument("--size", type=int, default=SIZE)
    arguments = parser.parse_args()
    for figure in asyncio.run(figures(arguments.url, arguments.size)):
        print(figure)


if __name__ == "__main__":
    main()
