"""Turns a second with 1, 2, 4 and 8 agent-workers whose handlers wait 100 ms, and what each turn costs whom.

`python -m tests.benchmarks.scaling`: one fleet on RabbitMQ and PostgreSQL, to which workers are added and from which
they are taken while it runs; more waits at any time than the workers can hold. First with so few handlers at once that
the machine has time left, up and down and up again; then with so many that it has none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import asyncpg
import uvloop

from tests.benchmarks import consumption
from tests.benchmarks.consumption import CLIENT, CPUS, Reading
from tests.benchmarks.feeding import TURNS_EACH, Feeder
from tests.benchmarks.figures import machine
from tests.support.broker import Broker, start_broker, unique_organism
from tests.support.fleet import Fleet, running
from tests.support.organisms import renamed
from tests.support.postgres import Databases, OwnDatabases, start_postgres
from tests.support.processes import SupportError
from xml_pipeline.logs import configure_logging
from xml_pipeline.storage.schema import migrate

ORGANISM = Path(__file__).parent / "waiting"
WAIT = 0.1  # seconds: that of waiting.py
WORKERS = (1, 2, 4, 8)
FEW, MANY = 5, 100  # handlers at once in a worker
ROUNDS = 3
SECONDS = 6.0
LIMIT = 60.0
KINDS = ("router", "agent-worker", "gateway", "usage", "PostgreSQL", "RabbitMQ", CLIENT)
_TURNS = "select count(*) from turns where created_at >= $1 and created_at < $2"
_SIZES = """
select c.relname as name, pg_table_size(c.oid) as heap, pg_indexes_size(c.oid) as indexes, s.n_live_tup as rows
from pg_class c join pg_stat_user_tables s on s.relid = c.oid
where c.relname in ('messages', 'turns', 'calls', 'threads', 'inbox')
order by pg_total_relation_size(c.oid) desc
"""


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in some seconds with so many workers. `cpu`: seconds by kind of process."""

    workers: int
    handlers: int
    seconds: float
    turns: int
    cpu: Mapping[str, float]
    busy: float
    wal: int
    commits: int

    @property
    def rate(self) -> float:
        """Turns a second."""
        return self.turns / self.seconds

    @property
    def possible(self) -> float:
        """What handlers that do nothing but wait could do at most, a second."""
        return self.workers * self.handlers / WAIT


@dataclass(slots=True)
class Site:
    """A running fleet, and what is measured at it."""

    fleet: Fleet
    connection: asyncpg.Connection[asyncpg.Record]
    feeder: Feeder
    handlers: int
    servers: Mapping[str, Sequence[int]]

    @property
    def pids(self) -> dict[str, list[int]]:
        """The processes of each kind."""
        services = {kind: [one.process.pid for one in self.fleet.of(kind)] for kind in KINDS[:4]}
        return services | {kind: list(pids) for kind, pids in self.servers.items()}

    async def scale(self, workers: int) -> None:
        """So many agent-workers, known to the router, and more to do than they can hold."""
        running_now = self.fleet.of("agent-worker")
        for extra in running_now[workers:]:
            await asyncio.to_thread(extra.terminate)
        started = self.fleet.start("agent-worker", workers - len(running_now)) if workers > len(running_now) else []
        for one in started:
            await asyncio.to_thread(one.wait_ready)
        await self._until_known(workers * self.handlers)
        self.feeder.wanted = max(100, 4 * workers * self.handlers)
        await self.feeder.filled()

    async def window(self, seconds: float) -> Window:
        """Raises SupportError where there was not enough to do."""
        pids = self.pids
        self.feeder.least = self.feeder.wanted
        before = await consumption.read(self.connection, pids)
        await asyncio.sleep(seconds)
        after = await consumption.read(self.connection, pids)
        self.feeder.require_running()
        if self.feeder.least == 0:
            raise SupportError("the backlog ran out: the client injects too slowly")
        turns = await self.connection.fetchval(_TURNS, before.at, after.at)
        return _difference(len(pids["agent-worker"]), self.handlers, turns, before, after)

    async def _until_known(self, capacity: int) -> None:
        async with asyncio.timeout(LIMIT):
            while await self.connection.fetchval("select max(capacity) from listeners") != capacity:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def _difference(workers: int, handlers: int, turns: int, before: Reading, after: Reading) -> Window:
    return Window(
        workers,
        handlers,
        (after.at - before.at).total_seconds(),
        turns,
        {kind: after.cpu[kind] - before.cpu[kind] for kind in after.cpu},
        after.busy - before.busy,
        after.wal - before.wal,
        after.commits - before.commits,
    )


@asynccontextmanager
async def site(broker: Broker, handlers: int, environment: Mapping[str, str] | None = None) -> AsyncIterator[Site]:
    """One gateway, router, usage service and agent-worker, the latter with one child, on a database of their own."""
    databases = start_postgres(migrate=migrate, durable=True)
    with tempfile.TemporaryDirectory() as folder:
        url = await asyncio.to_thread(databases.create_database)
        file = renamed(ORGANISM, unique_organism("scale"), Path(folder) / "organism")
        text = file.read_text()
        file.write_text(text.replace("max_concurrent_handlers: 5", f"max_concurrent_handlers: {handlers}"))
        own = {"ORGANISM_WORKER_PROCESSES": "1", "ORGANISM_LOG_LEVEL": "warning", **(environment or {})}
        fleet = Fleet(file, broker.amqp_url, url, Path(folder), own)
        connection, feeding = await asyncpg.connect(url), await asyncpg.connect(url)
        try:
            with running(fleet, dict.fromkeys(KINDS[:4], 1)):
                async with Feeder(fleet.urls()[0], feeding) as feeder:
                    yield Site(fleet, connection, feeder, handlers, _servers(broker, databases))
        finally:
            await asyncio.gather(connection.close(), feeding.close())
            databases.close()


def _servers(broker: Broker, databases: Databases) -> dict[str, list[int]]:
    """Those that are this benchmark's own: of others the processes are not known."""
    servers = {"PostgreSQL": [databases.server.pid]} if isinstance(databases, OwnDatabases) else {}
    try:
        return {**servers, "RabbitMQ": [broker.node.pid]}
    except SupportError:
        return servers


async def rounds(place: Site, workers: Sequence[int], count: int, seconds: float) -> list[Window]:
    """Up, down, up and so on, so that the machine's drift is in all of them."""
    windows = []
    for number in range(count):
        for workers_now in workers if number % 2 == 0 else reversed(workers):
            await place.scale(workers_now)
            windows.append(await place.window(seconds))
    return windows


def table(windows: Sequence[Window]) -> Iterator[str]:
    """A line for each number of workers: medians of its windows."""
    kinds = [kind for kind in KINDS if kind in windows[0].cpu]
    yield f"{'workers':>9} {'turns/s':>9} {'x linear':>9} {'x waiting':>10} {'CPU busy':>9}   ms of CPU a turn: " + ", ".join(kinds)
    by_workers = {count: [one for one in windows if one.workers == count] for count in {w.workers: None for w in windows}}
    base = min(by_workers)
    one = _mid(by_workers[base], lambda window: window.rate) / base
    for count in sorted(by_workers):
        of = by_workers[count]
        rate = _mid(of, lambda window: window.rate)
        possible, busy = of[0].possible, _mid(of, lambda window: window.busy / window.seconds / CPUS)
        costs = [_mid(of, lambda window, kind=kind: 1000 * window.cpu[kind] / window.turns) for kind in kinds]
        yield (
            f"{count:>9} {rate:>9,.0f} {rate / one / count:>9.2f} {rate / possible:>10.2f} {busy:>9.0%}   "
            + " ".join(f"{cost:>7.2f}" for cost in costs)
        )


def _mid(windows: Iterable[Window], value: Callable[[Window], float]) -> float:
    return median(map(value, windows))


async def state(place: Site, last: Window) -> list[str]:
    """What the fleet holds and leaves behind, as it stands."""
    pids = place.pids
    turns = await place.connection.fetchval("select count(*) from turns")
    lines = [
        f"PostgreSQL a turn: {last.wal / last.turns:,.0f} bytes of WAL, {last.commits / last.turns:.2f} commits",
    ]
    for row in await place.connection.fetch(_SIZES):
        lines.append(
            f"  {row['name']}: {row['rows'] / turns:.2f} rows, {row['heap'] / turns:,.0f} bytes,"
            f" {row['indexes'] / turns:,.0f} of indexes"
        )
    services = {kind: pids[kind] for kind in KINDS[:4]}
    to_database, to_broker = (
        consumption.connections(services, urlsplit(url).port or 0)
        for url in (place.fleet.database_url, place.fleet.amqp_url)
    )
    for kind, megabytes in consumption.memory(services).items():
        count = len(services[kind])
        lines.append(
            f"{kind}: {megabytes:.0f} MB each, {to_database[kind] / count:.0f} connections to PostgreSQL,"
            f" {to_broker[kind] / count:.0f} to RabbitMQ"
        )
    return lines


async def figures(broker: Broker, *, workers: Sequence[int], count: int, seconds: float) -> AsyncIterator[str]:
    """All of it, line by line."""
    yield f"{FEW} handlers at once in a worker, {count} windows of {seconds:g} s each"
    async with site(broker, FEW) as place:
        for line in table(await rounds(place, workers, count, seconds)):
            yield line
    yield f"{MANY} handlers at once in a worker, until the CPU is full"
    async with site(broker, MANY) as place:
        windows = await rounds(place, workers, 1, seconds)
        for line in (*table(windows), *await state(place, windows[-1])):
            yield line


def run(broker: Broker, workers: Sequence[int] = WORKERS, count: int = ROUNDS, seconds: float = SECONDS) -> Iterator[str]:
    """On a broker that runs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines = figures(broker, workers=workers, count=count, seconds=seconds)
        while (line := runner.run(anext(lines, None))) is not None:  # type: ignore[arg-type]
            yield line


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each window")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--workers", default=",".join(map(str, WORKERS)))
    arguments = parser.parse_args()
    configure_logging("warning", style="console")
    os.environ.setdefault("ORGANISM_LOG_LEVEL", "warning")
    broker = start_broker()
    try:
        print(machine([broker.kind, f"load {os.getloadavg()[0]:.1f} before"]), flush=True)
        for line in run(broker, tuple(map(int, arguments.workers.split(","))), arguments.rounds, arguments.seconds):
            print(line, flush=True)
    finally:
        broker.close()


if __name__ == "__main__":
    main()
