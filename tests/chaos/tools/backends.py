"""A PostgreSQL that sends its clients away again and again, as an administrator or a failover would."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from tests.support.postgres_server import binaries
from tests.support.processes import SupportError

_ROUND_SECONDS = 10.0
_TERMINATE = """\
select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid() and application_name <> all (:'spared'::text[])
"""


def terminate_backends(url: str, *, spared: Sequence[str] = ()) -> int:
    """End all clients' sessions but those with the `spared` application names; how many there were.

    Raises SupportError when the server does not do it.
    """
    command = [str(binaries() / "psql"), url, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    command += ["-v", f"spared={_array(spared)}"]
    try:
        done = subprocess.run(command, input=_TERMINATE, capture_output=True, text=True, timeout=_ROUND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise SupportError(f"PostgreSQL ended no sessions within {_ROUND_SECONDS:g} s") from error
    if done.returncode != 0:
        raise SupportError(f"PostgreSQL ended no sessions: {' '.join(done.stderr.split())}")
    return int(done.stdout)


class BackendTerminator:
    """Ends all clients' sessions every so many seconds, inside a `with` block; the first time at once.

    Rounds in which the server could not be reached are counted as `failures`.
    """

    def __init__(self, url: str, *, every: float, spared: Sequence[str] = ()) -> None:
        self.terminated = 0
        self.rounds = 0
        self.failures = 0
        self._url = url
        self._every = every
        self._spared = tuple(spared)
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backend-terminator")
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        self._running = self._pool.submit(self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pool.shutdown()
        if self._running is not None:
            self._running.result()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.terminated += terminate_backends(self._url, spared=self._spared)
                self.rounds += 1
            except SupportError:
                self.failures += 1
            self._over.wait(self._every)


def _array(names: Sequence[str]) -> str:
    """An array literal of PostgreSQL."""
    quoted = ('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names)
    return "{" + ",".join(quoted) + "}"
