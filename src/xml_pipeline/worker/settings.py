"""The settings of an agent-worker."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from xml_pipeline.errors import InvalidInput
from xml_pipeline.stopping import HANDLERS

MOST_PROCESSES = 4
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
    grace: float = HANDLERS
    block_limit: float = _BLOCK_LIMIT
    silence_limit: float = 15.0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, processes: int | None = None
    ) -> WorkerSettings:
        """The settings that `ORGANISM_*` variables name; `processes` wins over its variable. Raises InvalidInput."""
        named = (name.strip() for name in environment.get("ORGANISM_LISTENERS", "").split(","))
        asked = processes or int(_number(environment, "ORGANISM_WORKER_PROCESSES", 0))
        return cls(
            processes=asked or min(os.cpu_count() or 1, MOST_PROCESSES),
            listeners=frozenset(filter(None, named)) or None,
            grace=_number(environment, "ORGANISM_WORKER_GRACE", HANDLERS),
            block_limit=_number(environment, "ORGANISM_WORKER_BLOCK_LIMIT", _BLOCK_LIMIT),
        )

    def require_known(self, listeners: Collection[str]) -> None:
        """Raises InvalidInput where one is to be served that the organism does not have."""
        unknown = (self.listeners or frozenset()).difference(listeners)
        if unknown:
            known = ", ".join(listeners)
            raise InvalidInput(f"ORGANISM_LISTENERS: no listener {', '.join(sorted(unknown))}; there are: {known}")


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise InvalidInput(f"{name}: {text!r} is no number of at least 0")
    return number
