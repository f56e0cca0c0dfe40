"""The embedded PostgreSQL: it starts anywhere, as anyone, and after anything."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from tests.support.processes import wait_until
from xml_pipeline.embedded_postgres import EmbeddedPostgres
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.storage.database import Database

_HOLDER = """
import asyncio, sys
from pathlib import Path
from xml_pipeline.embedded_postgres import EmbeddedPostgres

async def main():
    server = EmbeddedPostgres(Path(sys.argv[1]))
    print(await server.start(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's: its path is too long for a socket, which is a case of its own.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        yield Path(folder) / "data"


async def _run(url: str, *statements: str) -> object:
    database = Database.connect(url)
    result: object = None
    try:
        async with database.begin() as connection:
            for statement in statements:
                found = await connection.execute(text(statement))
                result = found.scalar() if found.returns_rows else None
    finally:
        await database.close()
    return result


def _holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that runs the server of this folder."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql://")
    return process


def _pid(folder: Path) -> int | None:
    """The server that the folder's pid file names, None between two."""
    try:
        words = (folder / "postgres" / "postmaster.pid").read_text().split()
    except FileNotFoundError:
        return None
    return int(words[0]) if words else None


def _signal(folder: Path, number: signal.Signals) -> int:
    pid = _pid(folder)
    assert pid is not None
    os.kill(pid, number)
    return pid


def _owners(folder: Path) -> list[tuple[Path, int, int]]:
    """Mode and owner of a folder and of all above it."""
    found = [(path, path.stat()) for path in (folder, *folder.parents)]
    return [(path, status.st_mode, status.st_uid) for path, status in found]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _there(path: Path) -> bool:
    return path.exists()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _bystander() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


async def test_data_stay_over_a_restart(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    await _run(await server.start(), "create table t (i int)", "insert into t values (7)")
    await server.stop()
    assert not server.running
    again = EmbeddedPostgres(folder)
    assert await _run(await again.start(), "select i from t") == 7
    await again.stop()
    await again.stop()


async def test_no_folder_above_changes_its_mode_or_owner(folder: Path) -> None:
    above = folder.parent / "closed"
    above.mkdir(mode=0o700)
    before = _owners(above)
    server = EmbeddedPostgres(above / "data")
    await _run(await server.start(), "select 1")
    await server.stop()
    assert _owners(above) == before
    assert _mode(above / "data" / "postgres") == 0o700


async def test_a_long_path_gets_a_socket_elsewhere(folder: Path) -> None:
    server = EmbeddedPostgres(folder / ("x" * 110))
    url = await server.start()
    assert await _run(url, "select 1") == 1
    socket_folder = Path(url.partition("host=")[2])
    assert _mode(socket_folder) == 0o700
    await server.stop()
    assert not _there(socket_folder)


async def test_nobody_reaches_it_over_the_network(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    await server.start()
    listening = [c for c in psutil.Process(_pid(folder)).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    await server.stop()
    assert listening == []


async def test_one_folder_is_for_one_organism(folder: Path) -> None:
    holder = _holder(folder)
    try:
        with pytest.raises(DatabaseUnavailable, match="another organism runs on"):
            await EmbeddedPostgres(folder).start()
    finally:
        holder.terminate()
        holder.wait()


async def test_goes_on_after_its_process_was_killed(folder: Path) -> None:
    holder = _holder(folder)
    pid = _pid(folder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    server = EmbeddedPostgres(folder)
    assert await _run(await server.start(), "select 1") == 1
    assert _pid(folder) != pid
    await server.stop()
    wait_until(lambda: pid is None or not psutil.pid_exists(pid), timeout=30, what="the orphan has ended")


async def test_ends_a_server_that_still_runs(folder: Path) -> None:
    orphan = EmbeddedPostgres(folder)
    await orphan.start()
    server = EmbeddedPostgres(folder)
    assert await _run(await server.start(), "select 1") == 1
    assert not orphan.running
    await server.stop()


async def test_ends_a_server_that_no_longer_answers(folder: Path) -> None:
    orphan = EmbeddedPostgres(folder)
    await orphan.start()
    _signal(folder, signal.SIGSTOP)
    server = EmbeddedPostgres(folder)
    assert await _run(await server.start(), "select 1") == 1
    await server.stop()


async def test_a_server_that_dies_is_started_again_at_the_same_address(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    database = Database.connect(await server.start())
    keeper = asyncio.create_task(server.keep_running())
    for number in (signal.SIGKILL, signal.SIGQUIT):
        killed = _signal(folder, number)
        while _pid(folder) in (None, killed) or not await _answers(database):  # noqa: ASYNC110 only time can tell
            await asyncio.sleep(0.05)
    keeper.cancel()
    await database.close()
    await server.stop()


async def _answers(database: Database) -> bool:
    try:
        await database.ping()
    except DatabaseUnavailable:
        return False
    return True


async def test_a_pid_file_that_speaks_of_another_process_is_stale(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    await server.start()
    pid_file = folder / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    _signal(folder, signal.SIGKILL)
    wait_until(lambda: not server.running, timeout=30, what="the server is gone")
    await server.stop()
    bystander = _bystander()
    try:
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        again = EmbeddedPostgres(folder)
        assert await _run(await again.start(), "select 1") == 1
        await again.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_data_half_made_are_made_anew(folder: Path) -> None:
    (folder / "postgres.new-left").mkdir(parents=True)
    server = EmbeddedPostgres(folder)
    await server.start()
    await server.stop()
    assert _names(folder) == ["lock", "postgres"]


async def test_data_of_another_version_are_refused(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    await server.start()
    await server.stop()
    (folder / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(DatabaseUnavailable, match=r"was made by PostgreSQL 9\.6"):
        await EmbeddedPostgres(folder).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_data_of_another_user_are_refused(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    await server.start()
    await server.stop()
    os.chown(folder / "postgres", 12345, 12345)
    with pytest.raises(DatabaseUnavailable, match="belongs to user 12345"):
        await EmbeddedPostgres(folder).start()
