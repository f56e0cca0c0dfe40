"""What clients did and were told, on disk before they go on: the half of the truth that no server can lose."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self


class Told(StrEnum):
    """What a client knows of a request. A timeout or a cut connection is `unknown`, never `fail`."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `what` is a kind of inject, or `kill`; each request has its own `topic`; `at`: the time of day."""

    told: Told
    what: str
    topic: str
    key: str
    thread: str | None = None
    message: str | None = None
    status: int | None = None
    at: float = 0.0


class History:
    """An append-only file of entries, each of them on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, entry: Entry) -> None:
        """Append; blocks until it is on disk."""
        line = json.dumps({**asdict(entry), "at": time.time()})
        os.write(self._file, f"{line}\n".encode())
        os.fsync(self._file)


@dataclass(slots=True)
class Operation:
    """A request as its client saw it to its end. Without an answer it is `unknown`."""

    what: str
    topic: str
    key: str
    thread: str | None = None
    answers: tuple[tuple[str | None, str | None], ...] = ()  # of each `ok`: thread and message
    statuses: tuple[int, ...] = ()  # of the answers that were no success
    tries: int = 0
    failures: int = 0

    def take(self, entry: Entry) -> None:
        """The next line about it."""
        self.thread = self.thread or entry.thread
        if entry.told is Told.INVOKE:
            self.tries += 1
        elif entry.told is Told.OK:
            self.answers = (*self.answers, (entry.thread, entry.message))
        elif entry.told is Told.FAIL:
            self.failures += 1
        if entry.told in (Told.FAIL, Told.UNKNOWN) and entry.status is not None:
            self.statuses = (*self.statuses, entry.status)

    @property
    def told(self) -> Told:
        """What was once accepted stays so; it has failed only if each try has."""
        if self.answers:
            return Told.OK
        return Told.FAIL if self.tries and self.failures == self.tries else Told.UNKNOWN


def read_entries(path: Path) -> Iterator[Entry]:
    """All lines that were written whole."""
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        if line.endswith("}"):
            values = json.loads(line)
            yield Entry(**{**values, "told": Told(values["told"])})


def read_operations(path: Path) -> list[Operation]:
    """The requests, in the order of their first lines."""
    found: dict[str, Operation] = {}
    for entry in read_entries(path):
        one = found.setdefault(entry.key, Operation(entry.what, entry.topic, entry.key))
        one.take(entry)
    return list(found.values())
