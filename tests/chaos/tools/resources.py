"""Memory, file descriptors and threads of services over time, and whether they keep growing."""

from __future__ import annotations

import contextlib
import csv
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.chaos.tools.processes import with_descendants
from tests.support.processes import SupportError

_QUARTERS = 4
_FEWEST = 8  # samples of a service: two for each median

Watched = Callable[[], Mapping[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a service's processes and their descendants hold together; pages they share count for each."""

    seconds: float  # since the sampler's start
    service: str
    processes: int
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """From the first quarter's median to the last quarter's, after the warm-up. Percent; 0 is flat."""

    service: str
    samples: int
    rss_percent: float
    descriptors_percent: float

    def within(self, *, rss_percent: float, descriptors_percent: float) -> bool:
        """Whether neither grew by more than that."""
        return self.rss_percent <= rss_percent and self.descriptors_percent <= descriptors_percent


class Sampler:
    """Takes a sample of each service every so many seconds, inside a `with` block.

    `watched` tells the services' process ids, and is asked each time: they may be started again meanwhile.
    A service without a living process gives no sample. With `table`, each sample is also a line of that CSV file.
    An error in between is raised at the end of the block.
    """

    def __init__(self, watched: Watched, *, every: float = 5.0, table: Path | None = None) -> None:
        self.samples: list[Sample] = []
        self._watched = watched
        self._every = every
        self._table = table
        self._started = time.monotonic()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="resource-sampler")
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._table is not None:
            with self._table.open("w", newline="") as file:
                csv.writer(file).writerow(field.name for field in fields(Sample))
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
            seconds = time.monotonic() - self._started
            taken = [take_sample(seconds, service, pids) for service, pids in self._watched().items()]
            self._keep([sample for sample in taken if sample is not None])
            self._over.wait(self._every)

    def _keep(self, samples: Sequence[Sample]) -> None:
        self.samples.extend(samples)
        if self._table is not None:
            with self._table.open("a", newline="") as file:
                csv.writer(file).writerows(asdict(sample).values() for sample in samples)


def take_sample(seconds: float, service: str, pids: Iterable[int]) -> Sample | None:
    """What these processes and their descendants hold now; None when none of them lives."""
    found = [held for process in with_descendants(pids) if (held := _held(process)) is not None]
    if not found:
        return None
    rss, descriptors, threads = (sum(column) for column in zip(*found, strict=True))
    return Sample(seconds, service, len(found), rss, descriptors, threads)


def growth(samples: Iterable[Sample], *, warm_up: float) -> list[Growth]:
    """How much each service grew, by name. Samples of the first `warm_up` seconds do not count.

    Raises SupportError for a service with fewer than eight samples: its medians would say nothing.
    """
    by_service: dict[str, list[Sample]] = {}
    for sample in samples:
        kept = by_service.setdefault(sample.service, [])
        if sample.seconds >= warm_up:
            kept.append(sample)
    return [_growth(service, kept) for service, kept in sorted(by_service.items())]


def _growth(service: str, samples: Sequence[Sample]) -> Growth:
    if len(samples) < _FEWEST:
        raise SupportError(f"{service}: {len(samples)} samples after the warm-up; let it run longer or sample faster")
    quarter = len(samples) // _QUARTERS
    first, last = samples[:quarter], samples[-quarter:]
    return Growth(
        service,
        len(samples),
        _percent([one.rss_bytes for one in first], [one.rss_bytes for one in last]),
        _percent([one.descriptors for one in first], [one.descriptors for one in last]),
    )


def _percent(first: Sequence[int], last: Sequence[int]) -> float:
    before = statistics.median(first)
    return (statistics.median(last) - before) / max(before, 1) * 100


def _held(process: psutil.Process) -> tuple[int, int, int] | None:
    """RSS in bytes, descriptors and threads; None for a process that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.memory_info().rss, process.num_fds(), process.num_threads()
    return None
