"""A database under READ COMMITTED, small enough to be stopped before each statement and inside each wait for a lock.

A statement sees what was committed when it began, and what its own transaction wrote. A row that it has to lock it
waits for; then it sees that row as it is by then, and still everything else as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, Hashable]


class UniqueViolation(Exception):
    """Two rows where there may be one."""


class Deadlock(Exception):
    """Everybody waits for somebody."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """Yielded by a transaction that waits for a lock."""

    key: Key


@dataclass(frozen=True, slots=True)
class Between:
    """Yielded by a transaction before each statement."""


class _Point:
    """Awaiting it hands a value to whoever drives the coroutine."""

    def __init__(self, value: Blocked | Between) -> None:
        self._value = value

    def __await__(self) -> Generator[Blocked | Between, None, None]:
        yield self._value


@dataclass(slots=True)
class Database:
    """What is committed, and who holds which lock."""

    rows: dict[Key, Any] = field(default_factory=dict)
    locks: dict[Key, Transaction] = field(default_factory=dict)
    clock: int = 0

    def table(self, name: str) -> dict[Hashable, Any]:
        """The committed rows of a table."""
        return {key[1]: row for key, row in self.rows.items() if key[0] == name}


@dataclass(slots=True, eq=False)
class Transaction:
    """Writes that nobody else sees yet, and locks that are held to the end."""

    db: Database
    writes: dict[Key, Any] = field(default_factory=dict)

    async def statement(self) -> Mapping[Key, Any]:
        """The point before a statement; then its snapshot."""
        await _Point(Between())
        return {**self.db.rows, **self.writes}

    async def lock(self, key: Key) -> Any:
        """Wait for the lock; then the row as it is now, None where there is none."""
        while self.db.locks.get(key, self) is not self:
            await _Point(Blocked(key))
        self.db.locks[key] = self
        return self.writes.get(key, self.db.rows.get(key))

    def try_lock(self, key: Key) -> bool:
        """SKIP LOCKED."""
        if self.db.locks.get(key, self) is not self:
            return False
        self.db.locks[key] = self
        return True

    async def update(
        self, snapshot: Mapping[Key, Any], keys: Iterable[Key], where: Callable[[Any], bool], to: Callable[[Any], Any]
    ) -> list[Any]:
        """Change the rows of these keys that the snapshot finds, if they still fit once they are locked."""
        changed = []
        for key in keys:
            if key not in snapshot or not where(snapshot[key]):
                continue
            row = await self.lock(key)
            if where(row):
                self.writes[key] = to(row)
                changed.append(self.writes[key])
        return changed

    async def claim(self, key: Key, taken: Callable[[], bool]) -> None:
        """What a unique index does: wait for another's uncommitted claim, then refuse if it was committed."""
        await self.lock(key)
        if taken():
            raise UniqueViolation(key)

    def commit(self) -> None:
        """Show the writes, give the locks back."""
        self.db.rows.update(self.writes)
        self._end()

    def roll_back(self) -> None:
        """Forget the writes, give the locks back."""
        self._end()

    def _end(self) -> None:
        self.writes = {}
        for key in [key for key, holder in self.db.locks.items() if holder is self]:
            del self.db.locks[key]
