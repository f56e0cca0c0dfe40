"""What one gateway knows of the backlog, and what it tells those who find it full."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.organism.model import Organism
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.refusals import backlog_full
from xml_pipeline.storage.backlog import Backlog, BacklogLimits, Full, count_backlog
from xml_pipeline.storage.inbox import Inject

# Seconds for which a count is good, and how many times as long as counting took: it costs as much as there is open.
_INTERVAL = 1.0
_REST = 10.0


class KnownBacklog:
    """Counted by a gateway at most once a second, with what this gateway has accepted since.

    So it is behind by what other gateways accept in that time, and by what was done in it.
    """

    def __init__(self, current: Current) -> None:
        self._current = current
        self._counted: Counter[str] = Counter()
        self._good_until = 0.0

    async def get(self, connection: AsyncConnection) -> Backlog:
        """Count, if it is time to; nothing is accepted here while it counts."""
        limits = limits_of(self._current.organism)
        began = time.monotonic()
        if began >= self._good_until:
            self._counted = await count_backlog(connection, limits)
            self._good_until = began + max(_INTERVAL, _REST * (time.monotonic() - began))
        return Backlog(limits, self._counted)

    def add(self, targets: Iterable[str]) -> None:
        """These listeners have each got one more."""
        self._counted.update(targets)


def limits_of(organism: Organism) -> BacklogLimits:
    """The limits in force."""
    limits = organism.limits
    own = {listener.name: listener.max_backlog for listener in organism.listeners.values() if listener.max_backlog}
    return BacklogLimits(limits.max_backlog, limits.max_backlog_per_thread, limits.max_backlog_per_listener, own)


def full_problem(full: Full, row: Inject, limits: BacklogLimits) -> Problem:
    """What is full, and at how much."""
    match full:
        case Full.ORGANISM:
            return backlog_full(full.value, "the organism", limits.organism)
        case Full.LISTENER:
            return backlog_full(full.value, f"listener {row.to_id!r}", limits.of_listener(row.to_id))
        case Full.THREAD:
            return backlog_full(full.value, f"thread {row.thread_id}", limits.thread)
