"""Frozen processes, and sessions that end: on real processes and a PostgreSQL of the test's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.chaos.tools.backends import BackendTerminator, terminate_backends
from tests.chaos.tools.processes import continue_processes, stop_processes, stopped, with_descendants
from tests.support.postgres_server import PostgresServer
from tests.support.processes import SupportError, end, spawn, wait_until

LIMIT = 10.0
# A parent and a child that forks its own; each adds to a file of its own while it runs.
FAMILY = """
import os, sys, time
os.fork() or os.fork()
while True:
    open(f"{sys.argv[1]}/{os.getpid()}", "ab").write(b".")
    time.sleep(0.005)
"""
# The last is what asyncpg says of a session that was ended right after its login.
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncpg.InternalClientError)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[int]:
    """The id of a process with a child and a grandchild."""
    marks = tmp_path / "marks"
    marks.mkdir()
    command = [sys.executable, "-c", FAMILY, str(marks)]
    process = spawn(command, env=os.environ, cwd=tmp_path, log=tmp_path / "log")
    wait_until(lambda: len(list(marks.iterdir())) == 3, timeout=LIMIT, what="all three run")
    yield process.pid
    everyone = with_descendants([process.pid])
    end(process)
    for one in everyone[1:]:
        one.kill()


def sizes(folder: Path) -> list[int]:
    return [mark.stat().st_size for mark in sorted((folder / "marks").iterdir())]


def test_a_whole_family_stops_and_goes_on(family: int, tmp_path: Path) -> None:
    stop_processes([family])
    everyone = with_descendants([family])
    assert [one.status() for one in everyone] == [psutil.STATUS_STOPPED] * 3
    before = sizes(tmp_path)
    continue_processes([family])
    wait_until(
        lambda: all(now > then for now, then in zip(sizes(tmp_path), before, strict=True)),
        timeout=LIMIT,
        what="all three go on",
    )


def test_a_family_goes_on_after_a_failed_block(family: int) -> None:
    with pytest.raises(ZeroDivisionError), stopped([family]):
        raise ZeroDivisionError
    assert all(one.status() != psutil.STATUS_STOPPED for one in with_descendants([family]))


def test_who_has_ended_is_no_error(family: int) -> None:
    process = psutil.Process(family)
    children = process.children(recursive=True)
    for one in (process, *children):
        one.kill()
    stop_processes([family])
    continue_processes([family])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.close()


async def test_a_frozen_server_answers_nothing_and_loses_nothing(server: PostgresServer) -> None:
    client = await asyncpg.connect(server.url())
    with stopped([server.pid]):
        with pytest.raises(TimeoutError):
            await client.fetchval("select 1", timeout=0.3)
        with pytest.raises(TimeoutError):
            await asyncpg.connect(server.url(), timeout=0.3)
    client.terminate()
    again = await asyncpg.connect(server.url(), timeout=LIMIT)
    assert await again.fetchval("select 1") == 1
    await again.close()


async def test_all_sessions_end_but_those_that_are_spared(server: PostgresServer) -> None:
    spared = await asyncpg.connect(server.url(), server_settings={"application_name": 'the harness, "it\'s"'})
    other = await asyncpg.connect(server.url())
    assert terminate_backends(server.url(), spared=['the harness, "it\'s"']) >= 1
    with pytest.raises(LOST):
        await other.fetchval("select 1")
    assert await spared.fetchval("select 1") == 1
    await spared.close()


async def test_sessions_end_again_and_again(server: PostgresServer) -> None:
    with BackendTerminator(server.url(), every=0.05) as terminator:
        for _ in range(3):
            with pytest.raises(LOST):
                await _stay(server.url())
    assert terminator.rounds >= 3
    assert terminator.terminated >= 3
    assert terminator.failures == 0


def test_a_server_that_is_gone_is_an_error_once_and_counted_in_the_background() -> None:
    gone = "postgresql://postgres@127.0.0.1:1/postgres"
    with pytest.raises(SupportError, match="ended no sessions"):
        terminate_backends(gone)
    with BackendTerminator(gone, every=0.01) as terminator:
        wait_until(lambda: terminator.failures > 1, timeout=LIMIT, what="it is tried again")
    assert terminator.rounds == 0


async def _stay(url: str) -> None:
    client = await asyncpg.connect(url, timeout=LIMIT)
    await client.execute("select pg_sleep(60)")
