"""The settings of an agent-worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

MOST_PROCESSES = 4
_GRACE = 25.0
_BLOCK_LIMIT = 5.0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All times in seconds.

    `listeners` is the subset to serve, None: all. `grace` is what running handlers get when the worker stops.
    `block_limit` is how long one step of a handler may hold up its child's event loop, `silence_limit` how long a
    child may answer nothing at all.
    """

    processes: int = 1
    listeners: frozenset[str] | None = None
    grace: float = _GRACE
    block_limit: float = _BLOCK_LIMIT
    silence_limit: float = 15.0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, processes: int | None = None
    ) -> WorkerSettings:
        """The settings that `ORGANISM_*` variables name; `processes` wins over its variable. Raises ValueError."""
        named = [name.strip() for name in environment.get("ORGANISM_LISTENERS", "").split(",")]
        asked = processes or int(environment.get("ORGANISM_WORKER_PROCESSES") or 0)
        return cls(
            processes=asked or min(os.cpu_count() or 1, MOST_PROCESSES),
            listeners=frozenset(filter(None, named)) or None,
            grace=float(environment.get("ORGANISM_WORKER_GRACE") or _GRACE),
            block_limit=float(environment.get("ORGANISM_WORKER_BLOCK_LIMIT") or _BLOCK_LIMIT),
        )
