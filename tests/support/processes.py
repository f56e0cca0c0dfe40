"""Starting and ending the processes that tests need, without leaving any behind."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_FIRST_PORT, _PORTS_OF_EACH, _WORKERS = 10_000, 2_500, 8
# Two runs side by side begin in different places.
_ports = itertools.count(os.getpid() * 37)


class SupportError(RuntimeError):
    """What the tests need could not be had; the message is one line that says what to do."""


def free_port() -> int:
    """A TCP port that is free on the loopback interface, and that nobody else is given until it is used.

    Below those that the system hands out by itself, and in another range for each process with tests.
    """
    while True:
        port = _FIRST_PORT + _PORTS_OF_EACH * (_worker() % _WORKERS) + next(_ports) % _PORTS_OF_EACH
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _worker() -> int:
    """Which of the processes with tests this is; a run without others takes one by chance."""
    named = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    return int(named) if named.isdecimal() else os.getpid()


def wait_until(condition: Callable[[], bool], *, timeout: float, what: str, interval: float = 0.05) -> None:
    """Poll a condition until it holds; SupportError naming `what` when `timeout` seconds have passed."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise SupportError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)


def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    last_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, out of reach of Ctrl-C.

    Linux sends it `last_signal` when the thread that started it ends, so that nothing outlives a killed pytest.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _die_with_parent(last_signal),
        )


def end(process: subprocess.Popen[bytes], *, ask: signal.Signals = signal.SIGTERM, grace: float = 15.0) -> None:
    """Ask a process to end, and kill it when it does not within `grace` seconds."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(ask)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return "(no log)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _die_with_parent(last_signal: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, last_signal)
