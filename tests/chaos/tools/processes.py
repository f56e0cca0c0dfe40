"""Freezing processes with all their descendants, and letting them go on.

A PostgreSQL server is frozen as a whole by the id of its postmaster: its backends are children of that.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator, Sequence

import psutil

from tests.support.processes import wait_until

_SECONDS = 10.0
_NOT_RUNNING = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def with_descendants(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes that have not ended, and all of their descendants; parents come first."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            for process in (parent, *parent.children(recursive=True)):
                found.setdefault(process.pid, process)
    return list(found.values())


def stop_processes(pids: Sequence[int]) -> None:
    """SIGSTOP, and return when none of them runs any more; SupportError when that takes too long."""
    wait_until(lambda: _all_stopped(pids), timeout=_SECONDS, what="the processes are stopped", interval=0.01)


def continue_processes(pids: Sequence[int]) -> None:
    """SIGCONT; children first, so that no parent finds a child of its own asleep."""
    for process in reversed(with_descendants(pids)):
        _signal(process, signal.SIGCONT)


@contextlib.contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """Stopped inside the block, going on after it, however it ends."""
    try:
        stop_processes(pids)
        yield
    finally:
        continue_processes(pids)


def _all_stopped(pids: Sequence[int]) -> bool:
    """Signal those that run; what they forked meanwhile is found in the next round."""
    running = [process for process in with_descendants(pids) if _runs(process)]
    for process in running:
        _signal(process, signal.SIGSTOP)
    return not running


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() not in _NOT_RUNNING
    return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
