"""A database that goes, stands still, or throws its clients out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import psutil

from tests.chaos.checker import Allowed
from tests.chaos.run import Fault, Stage

TERMINATIONS = 8
BETWEEN = 2.0


@contextmanager
def stopped_at_once(stage: Stage) -> Iterator[None]:
    """The server's immediate stop: as a crash, and it recovers when it is started."""
    stage.ground.databases.server.kill()
    yield
    stage.ground.databases.server.start()


@contextmanager
def suspended(stage: Stage) -> Iterator[None]:
    """SIGSTOP for the server and all its backends."""
    server = psutil.Process(stage.ground.databases.server.pid)
    processes = (server, *server.children(recursive=True))
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@contextmanager
def backends_terminated(stage: Stage) -> Iterator[None]:
    """Every client is thrown out, again and again."""
    for _ in range(TERMINATIONS):
        asyncio.run(_terminate(stage.ground.databases.server.url()))
        stage.crew.wait(BETWEEN)
    yield


async def _terminate(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()


FAULTS = (
    Fault(
        "database-killed",
        "A database that crashes and recovers: the API says so meanwhile, and everything goes on",
        stopped_at_once,
        hold=3.0,
        target=5.0,
        short=True,
    ),
    Fault(
        "database-suspended",
        "A database that stands still: nothing hangs past its timeout, and everything goes on",
        suspended,
        hold=12.0,
        target=5.0,
        allowed=Allowed(reruns=True),
    ),
    Fault(
        "backends-terminated",
        "All database connections cut every two seconds: transactions are done again",
        backends_terminated,
        target=5.0,
        short=True,
    ),
)
