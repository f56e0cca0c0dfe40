"""The backlog: what is accepted and not closed. Counted as far as a limit needs it, and what still has room in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# By state, since each has its partial index. No part is read beyond what fills the organism.
_COUNT = text("""
    select to_id, count(*) as open from (
        (select to_id from messages where state = 'waiting' limit :most)
        union all (select to_id from messages where state = 'ready' and parked_for is null limit :most)
        union all (select to_id from messages where parked_for is not null limit :most)
        union all (select to_id from messages where state = 'out' limit :most)
        union all (select to_id from inbox where taken_at is null limit :most)
    ) as open_ones group by to_id
""")


class Full(StrEnum):
    """Whose backlog is at its limit."""

    LISTENER = "listener-backlog"
    THREAD = "thread-backlog"
    ORGANISM = "organism-backlog"


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """The most messages that may be open: in all, in a thread, of a listener (`own`: those that have one of theirs)."""

    organism: int
    thread: int
    listener: int
    own: Mapping[str, int] = field(default_factory=dict)

    def of_listener(self, name: str) -> int:
        """The limit of one listener."""
        return self.own.get(name, self.listener)


class Newcomer(Protocol):
    """One who wants in."""

    @property
    def id(self) -> UUID:
        """Its own."""

    @property
    def thread_id(self) -> UUID:
        """Its thread's."""

    @property
    def to_id(self) -> str:
        """Its listener."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The limits, and what was counted as open a moment ago, by listener."""

    limits: BacklogLimits
    counted: Mapping[str, int]


async def count_backlog(connection: AsyncConnection, limits: BacklogLimits) -> Counter[str]:
    """What is open, by listener. Exact, unless the organism is full: then at least as much as fills it."""
    rows = await connection.execute(_COUNT, {"most": limits.organism})
    return Counter({row.to_id: row.open for row in rows})


def refuse_by_count(newcomers: Iterable[Newcomer], backlog: Backlog) -> dict[UUID, Full]:
    """Who finds the organism or its listener full, when they come in this order."""
    limits, open_, total = backlog.limits, Counter(backlog.counted), sum(backlog.counted.values())
    refused: dict[UUID, Full] = {}
    for one in newcomers:
        if total >= limits.organism:
            refused[one.id] = Full.ORGANISM
        elif open_[one.to_id] >= limits.of_listener(one.to_id):
            refused[one.id] = Full.LISTENER
        else:
            open_[one.to_id] += 1
            total += 1
    return refused


def refuse_by_thread(newcomers: Iterable[Newcomer], limit: int, open_: Mapping[UUID, int]) -> dict[UUID, Full]:
    """Who finds its thread full, when they come in this order; `open_` was read under the threads' locks."""
    counts = Counter(open_)
    refused: dict[UUID, Full] = {}
    for one in newcomers:
        if counts[one.thread_id] >= limit:
            refused[one.id] = Full.THREAD
        else:
            counts[one.thread_id] += 1
    return refused
