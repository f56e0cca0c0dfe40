"""How long reports and the usage API take on a large ledger: medians in milliseconds, on warm caches.

SIZE calls (1,000,000 unless the environment says otherwise) of 30 days are made inside PostgreSQL, and budgets and
rollups are derived from them there. What is asked goes through a real gateway and the reports as the command has them;
what they say is then compared with the raw rows.
"""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import uvloop

from tests.benchmarks.report_checks import CHECKS, Range
from tests.integration.gateway_support import Gateway, copied_example, running_gateway
from tests.support.derived_books import DERIVE
from tests.support.postgres import start_postgres
from xml_pipeline.reports.definitions import REPORTS
from xml_pipeline.reports.query import Wanted, run_report
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate

SIZE = 1_000_000
DAYS = 30
RUNS = 15
GOAL_MS = 50
_EVENTS_OF_A_THREAD = 20

# Twenty calls of a thread follow one another by a minute; one in a hundred expired, two in a hundred are estimated.
_MODELS = """(values
    (0, 'grok-4.1', 'xai', 3, 15), (1, 'gpt-4o', 'openai', 2.5, 10), (2, 'gpt-4o-mini', 'openai', 0.15, 0.6),
    (3, 'claude-sonnet-4-5', 'anthropic', 3, 15), (4, 'claude-haiku-4-5', 'anthropic', 1, 5),
    (5, 'nobody-knows-it', 'local', 0, 0)) as models (number, model, provider, prompt_price, completion_price)"""
_THREADS = f"""
    insert into threads (id, status, tags, created_at, last_activity)
    select cast(lpad(to_hex(t), 32, '0') as uuid), 'completed', jsonb_build_object('team', 'team' || t % 5),
        begun, begun + interval '20 minutes'
    from generate_series(0, cast($2 as int) - 1) as t,
        lateral (select cast($1 as timestamptz) + t * interval '{DAYS} days' / cast($2 as int) as begun) as thread
"""
_EVENTS = f"""
    insert into usage_events (call_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
        cache_read_tokens, latency_us, cost, uncached_cost, price_id, kind, period, granted_at)
    select cast(lpad(to_hex(i), 32, '0') as uuid), cast(lpad(to_hex(i / {_EVENTS_OF_A_THREAD}), 32, '0') as uuid),
        'agent' || agent, model, provider, prompt, completion, cached,
        case when chance >= 0.01 then cast(exp(5 + 3 * chance) * 1000 as bigint) end,
        (prompt * prompt_price - cached * prompt_price * 0.9 + completion * completion_price) / 1000000,
        (prompt * prompt_price + completion * completion_price) / 1000000,
        case when prompt_price > 0 then number end,
        case when chance < 0.01 then 'expired' when chance < 0.03 then 'estimated' else 'measured' end, 1,
        cast($1 as timestamptz) + (i / {_EVENTS_OF_A_THREAD}) * interval '{DAYS} days' / cast($2 as int)
            + (i % {_EVENTS_OF_A_THREAD}) * interval '1 minute'
    from (
        select i, cast(random() * 19 as int) as agent, cast(random() * 5 as int) as chosen, random() as chance,
            cast(100 + random() * 4000 as int) as prompt, cast(10 + random() * 900 as int) as completion,
            cast(random() * 100 as int) as cached
        from generate_series(cast($3 as int), cast($4 as int) - 1) as i
    ) as calls join {_MODELS} on number = chosen
"""
_PART = 1_000_000


@dataclass(frozen=True, slots=True)
class Timing:
    """The median of several runs."""

    name: str
    milliseconds: float

    def __str__(self) -> str:
        late = "" if self.milliseconds < GOAL_MS else f"   above the goal of {GOAL_MS} ms"
        return f"{self.name:<58} {self.milliseconds:>12,.1f} ms{late}"


def size() -> int:
    """How many calls: SIZE of the environment."""
    return int(os.environ.get("SIZE") or SIZE)


def run() -> Iterator[Timing]:
    """On a PostgreSQL of the benchmark's own."""
    databases = start_postgres(migrate=migrate, durable=True)
    try:
        yield from uvloop.run(timings(databases.create_database(), size()))
    finally:
        databases.close()


async def timings(url: str, count: int) -> list[Timing]:
    """Fill the empty database, measure, and compare with the raw rows. Raises AssertionError where they differ."""
    within = await fill(url, count)
    database = Database.connect(url)
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with running_gateway(url, copied_example(Path(folder))) as gateway:
                found = [await _timed(name, ask) async for name, ask in _questions(gateway, database, within)]
        for check in CHECKS:
            await check(database, within)
    finally:
        await database.close()
    return found


async def fill(url: str, count: int) -> Range:
    """Make `count` calls of the 30 days up to today, and all that is derived from them."""
    last = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    start, threads = last - timedelta(days=DAYS), max(1, count // _EVENTS_OF_A_THREAD)
    connection = await asyncpg.connect(url)
    try:
        await _months(connection, start, last)
        await connection.execute("select setseed(0.5)")
        await connection.execute(_THREADS, start, threads)
        for first in range(0, count, _PART):
            await connection.execute(_EVENTS, start, threads, first, min(first + _PART, count))
        for statement in DERIVE:
            await connection.execute(statement)
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()
    return Range(start.date(), (last - timedelta(days=1)).date())


async def _months(connection: asyncpg.Connection, start: datetime, last: datetime) -> None:
    month = start.date().replace(day=1)
    while month <= last.date():
        after = (month + timedelta(days=32)).replace(day=1)
        await connection.execute(
            f"create table if not exists usage_events_{month:%Y_%m} partition of usage_events "
            f"for values from ('{month} 00:00+00') to ('{after} 00:00+00')"
        )
        month = after


Ask = Callable[[], Awaitable[object]]


async def _questions(gateway: Gateway, database: Database, within: Range) -> AsyncIterator[tuple[str, Ask]]:
    month = {"from": f"{within.first}", "to": f"{within.last + timedelta(days=1)}"}
    paths: Mapping[str, Mapping[str, str]] = {
        "/usage": {},
        "/usage/agents/agent7": {},
        "/usage/models/gpt-4o": {},
        "/usage/threads": {},
        "/usage/timeseries": month,
        "/usage/timeseries by day and tag": {**month, "step": "day", "groupBy": "tag"},
        "/usage/timeseries of one agent by model": {**month, "agent": "agent7", "groupBy": "model"},
        "/usage/timeseries by model": {**month, "groupBy": "model"},
        "/usage/timeseries by agent": {**month, "groupBy": "agent"},
    }
    for name, parameters in paths.items():
        yield f"GET {name}", _get(gateway, name.partition(" ")[0], parameters)
    for name in REPORTS:
        yield f"report {name}", _report(database, name, within)


def _get(gateway: Gateway, path: str, parameters: Mapping[str, str]) -> Ask:
    async def ask() -> Any:
        return (await gateway.http.get(f"/api/v1{path}", params=dict(parameters))).raise_for_status()

    return ask


def _report(database: Database, name: str, within: Range) -> Ask:
    ends: tuple[date | None, date | None] = (within.first, within.last) if REPORTS[name].range else (None, None)
    wanted = Wanted(REPORTS[name], *ends)

    async def ask() -> object:
        async with database.snapshot() as connection:
            return await run_report(connection, wanted)

    return ask


async def _timed(name: str, ask: Ask) -> Timing:
    await ask()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        await ask()
        seconds.append(time.perf_counter() - started)
    return Timing(name, median(seconds) * 1000)


def main() -> None:
    """Measure on the empty database that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="postgresql:// URL of an empty database with the current schema")
    parser.add_argument("--size", type=int, default=size())
    arguments = parser.parse_args()
    for timing in uvloop.run(timings(arguments.url, arguments.size)):
        print(timing)


if __name__ == "__main__":
    main()
