"""What processes and the database use up, as counters: two readings and their difference."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import psutil

CLIENT = "client"
CPUS = os.cpu_count() or 1
_DATABASE = """
select clock_timestamp() as at, pg_current_wal_lsn() - '0/0'::pg_lsn as wal, xact_commit as commits
from pg_stat_database where datname = current_database()
"""
_IDLE = ("idle", "iowait")


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment. `cpu`: seconds by kind of process; `busy`: of all CPUs, whoever used them."""

    at: datetime
    cpu: Mapping[str, float]
    busy: float
    wal: int
    commits: int


async def read(connection: asyncpg.Connection[asyncpg.Record], pids: Mapping[str, Iterable[int]]) -> Reading:
    """`pids`: by kind, the processes that count with all that they have started."""
    row = await connection.fetchrow(_DATABASE)
    cpu = {kind: sum(map(cpu_seconds, roots)) for kind, roots in pids.items()}
    cpu[CLIENT] = sum(psutil.Process().cpu_times()[:2])
    return Reading(row["at"], cpu, _busy_seconds(), int(row["wal"]), row["commits"])


def memory(pids: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """MB that one process of each kind has for itself alone, with what it has started."""
    return {kind: _mean([_own_mb(pid) for pid in roots]) for kind, roots in pids.items()}


def connections(pids: Mapping[str, Iterable[int]], port: int) -> Counter[str]:
    """By kind, the TCP connections that are open to a local port."""
    counted: Counter[str] = Counter()
    for kind, roots in pids.items():
        for process in (one for pid in roots for one in _family(pid)):
            counted[kind] += sum(bool(c.raddr) and c.raddr.port == port for c in process.net_connections("tcp"))
    return counted


def cpu_seconds(pid: int) -> float:
    """With what children used that have ended and been waited for."""
    return sum(sum(process.cpu_times()[:4]) for process in _family(pid))


def _own_mb(pid: int) -> float:
    return sum(float(process.memory_full_info().uss) for process in _family(pid)) / 1e6


def _family(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.cpu_times()
                yield one


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - guest - sum(getattr(times, name, 0.0) for name in _IDLE))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
