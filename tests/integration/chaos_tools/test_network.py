"""A process on an island: what it reaches, what it sees of a cut, and that nothing is left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.tools.network import Island, can_isolate, remove_leftovers
from tests.support.postgres_server import binaries
from tests.support.processes import end, spawn, wait_until

LIMIT = 15.0
# Says what becomes of one connection that stays and of new ones; each round's outcome is a line.
CLIENT = """
import asyncio, sys
import asyncpg

async def outcome(action):
    try:
        async with asyncio.timeout(0.5):
            return await action
    except BaseException as error:
        return type(error).__name__

async def fresh(url):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("select 1")
    finally:
        connection.terminate()

async def main(url):
    connection = await asyncpg.connect(url)
    await connection.add_listener("news", lambda *news: print("news", news[-1], flush=True))
    while True:
        print("fresh", await outcome(fresh(url)), "open", not connection.is_closed(), flush=True)
        await asyncio.sleep(0.05)

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def island() -> Iterator[Island]:
    if not can_isolate():
        pytest.skip("this machine allows no network namespaces: it takes root, ip and nft")
    with Island() as island:
        yield island


def test_a_cut_is_silent_for_what_is_open_and_for_what_is_new(
    island: Island, database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "client.log"
    command = island.command([sys.executable, "-c", CLIENT, island.reach(database_url)])
    client = spawn(command, env=os.environ, cwd=tmp_path, log=log)
    try:
        until_said(log, "fresh 1 open True")
        island.cut()
        until_said(log, "fresh TimeoutError open True", times=3)
        notify(database_url, "while it was cut")
        island.heal()
        until_said(log, "news while it was cut")
        before = lines(log).count("fresh 1 open True")
        until_said(log, "fresh 1 open True", times=before + 1)
        assert set(lines(log)) == {"fresh 1 open True", "fresh TimeoutError open True", "news while it was cut"}
    finally:
        end(client)


def test_a_server_inside_is_reached_until_the_cut(island: Island, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hello")
    log = tmp_path / "server.log"
    command = island.command([sys.executable, "-m", "http.server", "8000", "--bind", "0.0.0.0"])  # noqa: S104
    server = spawn(command, env=os.environ, cwd=tmp_path, log=log)
    try:
        url = island.expose(8000)
        wait_until(lambda: fetch(url) == "hello", timeout=LIMIT, what="the server inside answers")
        island.cut()
        assert fetch(url) == "ReadTimeout"
        island.heal()
        wait_until(lambda: fetch(url) == "hello", timeout=LIMIT, what="the server inside answers again")
    finally:
        end(server)


def test_an_island_is_out_of_reach_of_everything_else(island: Island, database_url: str) -> None:
    knock = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"
    port = database_url.rpartition(":")[2].partition("/")[0]
    done = subprocess.run(island.command([sys.executable, "-c", knock, "127.0.0.1", port]), capture_output=True)
    assert b"ConnectionRefusedError" in done.stderr


def test_only_the_islands_of_dead_runs_are_removed(island: Island) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    left = f"xpchaos-{ended.pid}-0-in"
    subprocess.run(["ip", "netns", "add", left], check=True)  # noqa: S607 - found on the PATH, as by the tool
    remove_leftovers()
    assert left not in namespaces()
    assert sum(f"-{os.getpid()}-" in name for name in namespaces()) == 2


def test_nothing_is_left_of_an_island() -> None:
    if not can_isolate():
        pytest.skip("this machine allows no network namespaces: it takes root, ip and nft")
    with Island():
        pass
    assert f"-{os.getpid()}-" not in " ".join(namespaces())


def until_said(log: Path, line: str, *, times: int = 1) -> None:
    wait_until(lambda: lines(log).count(line) >= times, timeout=LIMIT, what=f"{times} of {line!r}")


def lines(log: Path) -> list[str]:
    """Whole lines only."""
    return log.read_text().split("\n")[:-1]


def notify(url: str, news: str) -> None:
    subprocess.run([str(binaries() / "psql"), url, "-q", "-c", f"notify news, '{news}'"], check=True)


def fetch(url: str) -> str:
    try:
        return httpx.get(f"{url}/page", timeout=1.0).text
    except httpx.TransportError as error:
        return type(error).__name__


def namespaces() -> list[str]:
    return [path.name for path in Path("/run/netns").iterdir()]
