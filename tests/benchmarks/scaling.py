"""Turns a second with 1, 2, 4 and 8 agent-workers whose handlers wait 100 ms, and what each turn costs whom.

`python -m tests.benchmarks.scaling`: one fleet on RabbitMQ and PostgreSQL, to which workers are added and from which
they are taken while it runs; more waits at any time than the workers can hold. First with so few handlers at once that
the machine has time left, up and down and up again; then with so many that it has none. `x linear`: by the rate of one
worker; `x waiting`: by that of handlers that do nothing but wait.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import asyncpg
import uvloop

from tests.benchmarks import consumption
from tests.benchmarks.consumption import CLIENT, CPUS, Reading
from tests.benchmarks.feeding import Feeder
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
FEW, MANY = 4, 25  # handlers at once in a worker
ROUNDS = 3
SECONDS = 6.0
SETTLE = 1.0
LIMIT = 60.0
SERVICES = ("router", "agent-worker", "gateway", "usage")
KINDS = (*SERVICES, "PostgreSQL", "RabbitMQ", CLIENT)
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
    cpu_of_all: float
    wal: int
    commits: int

    @property
    def rate(self) -> float:
        """Turns a second."""
        return self.turns / self.seconds

    @property
    def busy(self) -> float:
        """The share of the machine that was in use, by whomever."""
        return self.cpu_of_all / self.seconds / CPUS

    @property
    def ours(self) -> float:
        """The share of the machine that this fleet, its servers and its client used."""
        return sum(self.cpu.values()) / self.seconds / CPUS

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
        services = {kind: [one.process.pid for one in self.fleet.of(kind)] for kind in SERVICES}
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
        await self.feeder.want(max(100, 2 * workers * self.handlers))
        await asyncio.sleep(SETTLE)

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
async def site(broker: Broker, handlers: int) -> AsyncIterator[Site]:
    """One gateway, router, usage service and agent-worker, the latter with one child, on a database of their own."""
    databases = start_postgres(migrate=migrate, durable=True)
    with tempfile.TemporaryDirectory() as folder:
        url = await asyncio.to_thread(databases.create_database)
        file = renamed(ORGANISM, unique_organism("scale"), Path(folder) / "organism")
        text = file.read_text()
        file.write_text(text.replace("max_concurrent_handlers: 4", f"max_concurrent_handlers: {handlers}"))
        own = {"ORGANISM_WORKER_PROCESSES": "1", "ORGANISM_LOG_LEVEL": "warning"}
        fleet = Fleet(file, broker.amqp_url, url, Path(folder), own)
        connection, feeding = await asyncpg.connect(url), await asyncpg.connect(url)
        try:
            with running(fleet, dict.fromkeys(SERVICES, 1), timeout=LIMIT):
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


async def rounds(place: Site, count: int, seconds: float) -> list[Window]:
    """Up, down, up and so on, so that the machine's drift is in all of them."""
    windows = []
    for number in range(count):
        for workers in WORKERS if number % 2 == 0 else reversed(WORKERS):
            await place.scale(workers)
            windows.append(await place.window(seconds))
    return windows


def table(windows: Sequence[Window]) -> Iterator[str]:
    """A line for each number of workers: medians of its windows."""
    kinds = [kind for kind in KINDS if kind in windows[0].cpu]
    yield f"workers  turns/s  x linear  x waiting  CPU busy  CPU ours  ms of CPU a turn: {', '.join(kinds)}"
    counts = sorted({window.workers for window in windows})
    of = {count: [window for window in windows if window.workers == count] for count in counts}
    one = _mid(window.rate for window in of[counts[0]]) / counts[0]
    for count in counts:
        rate = _mid(window.rate for window in of[count])
        costs = [_mid(1000 * window.cpu[kind] / window.turns for window in of[count]) for kind in kinds]
        yield (
            f"{count:>7} {rate:>8,.0f} {rate / one / count:>9.2f} {rate / of[count][0].possible:>10.2f}"
            f" {_mid(window.busy for window in of[count]):>9.0%} {_mid(window.ours for window in of[count]):>9.0%}  "
            + " ".join(f"{cost:>6.2f}" for cost in costs)
        )


async def state(place: Site, last: Window) -> AsyncIterator[str]:
    """What the fleet holds and leaves behind, as it stands."""
    turns = await place.connection.fetchval("select count(*) from turns")
    wal, batch = last.wal / last.turns, last.turns / last.commits
    yield f"PostgreSQL: {wal:,.0f} bytes of WAL a turn, {batch:.1f} turns a commit"
    for row in await place.connection.fetch(_SIZES):
        heap, indexes = row["heap"] / turns, row["indexes"] / turns
        yield f"  {row['name']}: {row['rows'] / turns:.2f} rows a turn, {heap:,.0f} bytes, indexes {indexes:,.0f}"
    services = {kind: pids for kind, pids in place.pids.items() if kind in SERVICES}
    memory = consumption.memory(services)
    to_database = consumption.connections(services, urlsplit(place.fleet.database_url).port or 0)
    to_broker = consumption.connections(services, urlsplit(place.fleet.amqp_url).port or 0)
    for kind, pids in services.items():
        yield (
            f"{kind}: {memory[kind]:.0f} MB, {to_database[kind] / len(pids):.0f} connections to PostgreSQL,"
            f" {to_broker[kind] / len(pids):.0f} to RabbitMQ"
        )


def few(broker: Broker, count: int = ROUNDS, seconds: float = SECONDS, handlers: int = FEW) -> list[str]:
    """So few handlers at once that eight workers leave some of the CPU: is it linear?"""
    return uvloop.run(_few(broker, count, seconds, handlers))


async def _few(broker: Broker, count: int, seconds: float, handlers: int) -> list[str]:
    async with site(broker, handlers) as place:
        return list(table(await rounds(place, count, seconds)))


def many(broker: Broker, count: int = 1, seconds: float = SECONDS, handlers: int = MANY) -> list[str]:
    """So many that the CPU is full: who takes what of it?"""
    return uvloop.run(_many(broker, count, seconds, handlers))


async def _many(broker: Broker, count: int, seconds: float, handlers: int) -> list[str]:
    async with site(broker, handlers) as place:
        windows = await rounds(place, count, seconds)
        return [*table(windows), *[line async for line in state(place, windows[-1])]]


def _mid(values: Iterable[float]) -> float:
    return median(values)


def titles(few_handlers: int = FEW, many_handlers: int = MANY) -> tuple[str, str]:
    """What is measured by `few` and by `many`."""
    first = f"Scaling: handlers that wait {WAIT * 1000:.0f} ms, {few_handlers} at once in a worker"
    return first, f"Scaling: the same, {many_handlers} at once in a worker, until the CPU is full"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each window")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the first table")
    parser.add_argument("--few", type=int, default=FEW, help="handlers at once in a worker, for the first table")
    parser.add_argument("--many", type=int, default=MANY, help="and for the second one")
    arguments = parser.parse_args()
    first, second = titles(arguments.few, arguments.many)
    configure_logging("warning", style="console")
    broker = start_broker()
    try:
        print(machine([broker.kind, f"load {os.getloadavg()[0]:.1f} before"]), flush=True)
        print(first, *few(broker, arguments.rounds, arguments.seconds, arguments.few), sep="\n", flush=True)
        print(second, *many(broker, seconds=arguments.seconds, handlers=arguments.many), sep="\n", flush=True)
    finally:
        broker.close()


if __name__ == "__main__":
    main()
