"""A database under READ COMMITTED, small enough to be stopped before each statement and inside each wait for a lock.

A statement sees what was committed when it began, and what its own transaction wrote. A row that it has to lock it
waits for; then it sees that row as it is by then, and still everything else as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any
from uuid import UUID

Key = tuple[str, Hashable]
Rows = Mapping[str, Mapping[Hashable, Any]]
"""Of each table, by their keys. What was deleted is None."""

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class UniqueViolation(Exception):
    """Two rows where there may be one."""


class Deadlock(Exception):
    """Everybody waits for somebody."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Yielded by a transaction that waits for a lock."""

    key: Key


@dataclass(frozen=True, slots=True)
class Step:
    """Yielded before each statement, and before everything else at which a process may die."""

    name: str
    about: tuple[object, ...] = ()


class _Point:
    """Awaiting it hands a value to whoever drives the coroutine."""

    def __init__(self, value: Blocked | Step) -> None:
        self._value = value

    def __await__(self) -> Generator[Blocked | Step, None, None]:
        yield self._value


async def step(name: str, *about: object) -> None:
    """Others may come first; and whoever is about to do this may die."""
    await _Point(Step(name, about))


@dataclass(frozen=True, slots=True)
class Change:
    """A row that a commit changed; None: it was not there, or is not any more."""

    key: Key
    before: Any
    after: Any


class View:
    """What one statement sees."""

    def __init__(self, committed: Rows, own: Mapping[Key, Any]) -> None:
        self._committed = committed
        self._own = own

    def get(self, table: str, id_: Hashable) -> Any:
        """A row, None where there is none."""
        if (table, id_) in self._own:
            return self._own[table, id_]
        return self._committed.get(table, {}).get(id_)

    def pick(self, table: str, ids: Iterable[Hashable]) -> dict[Any, Any]:
        """Those of these rows that exist."""
        return {id_: row for id_ in ids if (row := self.get(table, id_)) is not None}

    def table(self, name: str) -> dict[Any, Any]:
        """All rows of a table."""
        own = {key[1]: row for key, row in self._own.items() if key[0] == name}
        rows = {**self._committed.get(name, {}), **own}
        return {id_: row for id_, row in rows.items() if row is not None}


@dataclass(slots=True)
class Database:
    """What is committed, who holds which lock, and the clock that counts. `strayed`: calls that never had a hold."""

    rows: Rows = field(default_factory=dict)
    locks: dict[Key, Transaction] = field(default_factory=dict)
    clock: float = 0.0
    sequence: int = 0
    changes: list[Change] = field(default_factory=list)
    strayed: set[UUID] = field(default_factory=set)

    @property
    def now(self) -> datetime:
        """The clock as a time."""
        return EPOCH + timedelta(seconds=self.clock)

    def view(self) -> View:
        """What somebody sees who has written nothing."""
        return View(self.rows, {})

    def next_number(self) -> int:
        """The next of a sequence."""
        self.sequence += 1
        return self.sequence

    def put(self, writes: Mapping[Key, Any]) -> None:
        """Make these rows visible, and remember what changed. Views of before stay as they are."""
        tables = {name: dict(self.rows.get(name, {})) for name in {key[0] for key in writes}}
        for key, row in writes.items():
            self.changes.append(Change(key, tables[key[0]].get(key[1]), row))
            tables[key[0]][key[1]] = row
        self.rows = {**self.rows, **tables}


@dataclass(slots=True, eq=False)
class Transaction:
    """Writes that nobody else sees yet, and locks that are held to the end. It ends as its block does."""

    db: Database
    writes: dict[Key, Any] = field(default_factory=dict)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await step("commit")
                self.db.put(self.writes)
        finally:
            self._end()

    async def statement(self, name: str) -> View:
        """The point before a statement; then what it sees."""
        await step(name)
        return View(self.db.rows, dict(self.writes))

    async def lock(self, key: Key) -> Any:
        """Wait for the lock; then the row as it is now, None where there is none."""
        while self.db.locks.get(key, self) is not self:
            await _Point(Blocked(key))
        self.db.locks[key] = self
        return self.current(key)

    def try_lock(self, key: Key) -> bool:
        """SKIP LOCKED."""
        if self.db.locks.get(key, self) is not self:
            return False
        self.db.locks[key] = self
        return True

    def current(self, key: Key) -> Any:
        """A row as it is now: certain only for one that is locked."""
        return self.writes[key] if key in self.writes else self.db.rows.get(key[0], {}).get(key[1])

    async def update(
        self, view: View, keys: Iterable[Key], where: Callable[[Any], bool], to: Callable[[Any], Any]
    ) -> list[Any]:
        """Change the rows of these keys that the view shows, if they still fit once they are locked."""
        changed = []
        for key in keys:
            seen = view.get(*key)
            if seen is None or not where(seen):
                continue
            row = await self.lock(key)
            if row is not None and where(row):
                self.writes[key] = to(row)
                changed.append(self.writes[key])
        return changed

    async def insert(self, key: Key, row: Any) -> bool:
        """ON CONFLICT DO NOTHING: whether this row is new. Waits only for who inserts or deletes it just now."""
        while self._is_in_doubt(key):
            await _Point(Blocked(key))
        if self.current(key) is not None:
            return False
        self.db.locks[key] = self
        self.writes[key] = row
        return True

    async def insert_unique(self, key: Key, row: Any) -> None:
        """The same without the clause. Raises UniqueViolation."""
        if not await self.insert(key, row):
            raise UniqueViolation(key)

    def _is_in_doubt(self, key: Key) -> bool:
        holder = self.db.locks.get(key, self)
        if holder is self:
            return False
        there = self.current(key) is not None
        return not there or (key in holder.writes and holder.writes[key] is None)

    def _end(self) -> None:
        self.writes = {}
        for key in [key for key, holder in self.db.locks.items() if holder is self]:
            del self.db.locks[key]
