"""What a migration locks, and how long others wait for it, looked at all the time from beside."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

NAME = "migrate"
EVERY = 0.02
# Those that reads or writes of rows wait for. Who makes a table has such a lock on it, and nobody waits.
_STRONG = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
_TABLES = "select oid from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'i', 'I')"
_HELD = """
    select l.virtualtransaction, cast(cast(l.relation as regclass) as text), l.mode
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where a.datname = current_database() and a.application_name = $1 and l.granted and l.locktype = 'relation'
        and l.mode = any($2) and l.relation = any($3)
"""
_WAITED = """
    select a.application_name, cast(extract(epoch from clock_timestamp() - min(l.waitstart)) as float8)
    from pg_stat_activity a join pg_locks l on l.pid = a.pid and not l.granted
    where a.datname = current_database() and a.application_name <> $1 and a.wait_event_type = 'Lock' and exists (
        select from pg_stat_activity m where m.application_name = $1 and m.pid = any(pg_blocking_pids(a.pid))
    ) group by a.pid, a.application_name
"""


@dataclass(slots=True)
class Locks:
    """What was seen, in seconds."""

    held: dict[str, float] = field(default_factory=dict)  # the longest by "mode on table"
    waited: dict[str, float] = field(default_factory=dict)  # the longest by who waited
    samples: int = 0
    longest_gap: float = 0.0  # between two looks: what was held for less may not have been seen
    _looked: float | None = None
    _since: dict[tuple[str, str, str], float] = field(default_factory=dict)

    @property
    def longest_held(self) -> float:
        return max(self.held.values(), default=0.0)

    @property
    def longest_waited(self) -> float:
        return max(self.waited.values(), default=0.0)

    def short(self, limit: float) -> bool:
        """Whether nobody held or waited for `limit` seconds, and it was looked often enough to know that."""
        looked = self.samples > 1 and self.longest_gap < limit / 2
        return looked and self.longest_held < limit and self.longest_waited < limit

    def saw(self, now: float, held: list[tuple[str, str, str]], waited: list[tuple[str, float]]) -> None:
        """Note one look: the strong locks of each transaction, and who waits how long."""
        self.samples += 1
        self.longest_gap = max(self.longest_gap, now - (now if self._looked is None else self._looked))
        self._looked = now
        for transaction, table, mode in held:
            what = f"{mode} on {table}"
            seconds = now - self._since.setdefault((transaction, table, mode), now)
            self.held[what] = max(self.held.get(what, 0.0), seconds)
        for who, seconds in waited:
            self.waited[who] = max(self.waited.get(who, 0.0), seconds)

    def __str__(self) -> str:
        most = sorted(self.held.items(), key=lambda item: -item[1])[:3]
        told = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in most)
        looks = f"{self.samples} looks, {self.longest_gap:.2f} s apart at most"
        return f"held at most: {told or 'nothing'}; others waited {self.longest_waited:.2f} s; {looks}"


@asynccontextmanager
async def watched_locks(url: str) -> AsyncIterator[Locks]:
    """Look every 20 ms at the strong locks that migrations hold on tables and indexes that are there now.

    From a thread of its own, so that no load keeps it from looking.
    """
    seen, stop = Locks(), threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(asyncio.run, _watch(url, seen, stop)))
    try:
        while not (seen.samples or watching.done()):  # noqa: ASYNC110 - it is about another thread
            await asyncio.sleep(EVERY)
        yield seen
    finally:
        stop.set()
        await watching


async def _watch(url: str, seen: Locks, stop: threading.Event) -> None:
    connection = await asyncpg.connect(url, server_settings={"application_name": "lock-watch"})
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    last = False
    while not last:
        last = stop.is_set()
        held = await connection.fetch(_HELD, NAME, list(_STRONG), tables)
        now = time.monotonic()
        waited = await connection.fetch(_WAITED, NAME)
        seen.saw(now, [(row[0], row[1], row[2]) for row in held], [(row[0], row[1]) for row in waited])
        await asyncio.sleep(EVERY)
    await connection.close()
