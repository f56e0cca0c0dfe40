"""What each migration locks, and for how long, with SIZE rows in each big table (100,000 unless set).

Somebody reads the big tables all the time, as services do. Which migrations want them stopped is told by the result.
"""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator

import asyncpg
import uvloop

from tests.support.lock_watch import Locks, watched_locks
from tests.support.postgres import start_postgres
from xml_pipeline.audit.closing import close_books
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import known_revisions, migrate, migrate_database

SIZE = 100_000
_EACH = 20
_READ = ("messages", "threads", "inbox", "dead_letters", "turns", "budgets", "holds", "usage_events", "usage_rollups")
_ID = "cast(lpad(to_hex({}), 32, '0') as uuid)"
_FILL = (
    f"insert into threads (id, status, slots) select {_ID.format('i')}, 'completed', {_EACH}"
    f" from generate_series(0, ($1::int - 1) / {_EACH}) i",
    f"""insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state, outcome)
    select {_ID.format("i")}, {_ID.format(f"i / {_EACH}")}, i % {_EACH} + 1, 'api', 'agent', 'request', 'question',
        convert_to(repeat('x', 300), 'UTF8'), true, 'closed', 'handled' from generate_series(0, $1::int - 1) i""",
    f"""insert into turns (id, message_id, attempt, outcome, counted)
    select {_ID.format("i")}, {_ID.format("i")}, 1, 'ok', true from generate_series(0, $1::int - 1) i""",
    f"""insert into dead_letters (id, code, reason, body)
    select {_ID.format("i")}, 'unreadable', 'why', 'x' from generate_series(0, $1::int - 1) i""",
    f"""insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion,
        state, period, expires_at)
    select {_ID.format("i")}, {_ID.format("i")}, {_ID.format(f"i / {_EACH}")}, 'agent', 'gpt-4o', 'openai', 100, 50,
        'settled', 1, now() from generate_series(0, $1::int - 1) i""",
    f"""insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
        completion_tokens, latency_ms, cost, priced, kind, period, granted_at)
    select {_ID.format("i")}, {_ID.format("i")}, {_ID.format(f"i / {_EACH}")}, 'agent', 'gpt-4o', 'openai', 100, 50,
        100, 0.001, true, 'measured', 1, date_trunc('hour', now()) from generate_series(0, $1::int - 1) i""",
    """insert into budgets (thread_id, max_tokens, prompt_tokens, completion_tokens)
    select thread_id, 100000, sum(prompt_tokens), sum(completion_tokens) from usage_events
    where $1::int > 0 group by 1""",
    """insert into usage_rollups select 1, granted_at, agent_id, model, provider, count(*), sum(prompt_tokens),
        sum(completion_tokens), sum(latency_ms), sum(cost) from usage_events where $1::int > 0 group by 2, 3, 4, 5""",
)


def run() -> Iterator[str]:
    """On a PostgreSQL of the benchmark's own."""
    databases = start_postgres(migrate=migrate, durable=True)
    try:
        yield from uvloop.run(figures(databases.create_empty_database(), int(os.environ.get("SIZE") or SIZE)))
    finally:
        databases.close()


async def figures(url: str, count: int) -> list[str]:
    """One line for each migration after the first. Raises AssertionError where the books are not clean afterwards."""
    await migrate_database(url, revision="0001")
    connection = await asyncpg.connect(url)
    for statement in _FILL:
        await connection.execute(statement, count)
    await connection.execute("vacuum analyze")
    await connection.close()
    lines = [await _one(url, revision) for revision in sorted(known_revisions() - {"0001"})]
    db = Database.connect(url, command_timeout=None)
    try:
        audit = await close_books(db)
    finally:
        await db.close()
    assert audit.clean, audit.differences
    return lines


async def _one(url: str, revision: str) -> str:
    reading = asyncio.create_task(_read(url))
    began = time.monotonic()
    async with watched_locks(url) as locks:
        await asyncio.to_thread(lambda: asyncio.run(migrate_database(url, revision=revision)))
    took = time.monotonic() - began
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    return f"migration {revision}: {took:.2f} s in all, {_told(locks)}"


def _told(locks: Locks) -> str:
    where = max(locks.held, key=lambda what: locks.held[what], default="nothing")
    return f"held {locks.longest_held:.2f} s at most ({where}), a reader waited {locks.longest_waited:.2f} s"


async def _read(url: str) -> None:
    """Each table by a reader of its own, which starts again when a table was made anew."""

    async def one(table: str) -> None:
        connection = await asyncpg.connect(url, server_settings={"application_name": "reader"}, statement_cache_size=0)
        try:
            while True:
                with contextlib.suppress(asyncpg.PostgresError):
                    await connection.execute(f"select from {table} limit 1")
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for table in _READ:
            group.create_task(one(table))


if __name__ == "__main__":
    for line in run():
        print(line)
