"""Decides from the outside whether the broker has forgotten a consumer.

RabbitMQ cancels the consumers of a deleted queue, except when a quorum queue is declared again within some
milliseconds: then they stay attached to nothing, and nobody tells them.
"""

from __future__ import annotations

import random
from typing import Final

LOOK_SECONDS: Final = 2.0
_LOOKS_WITH_BACKLOG: Final = 3  # quiet looks in a row while messages wait
_LOOKS_WITHOUT: Final = 12  # quiet looks in a row while nothing is held: subscribing again costs nothing then


class Watchdog:
    """Counts quiet looks at one subscription."""

    def __init__(self, prefetch: int) -> None:
        self._prefetch = prefetch
        self._completed = 0
        self._quiet = 0

    def next_look(self) -> float:
        """Seconds until the next look; not the same for all, so that they do not ask together."""
        return LOOK_SECONDS * random.uniform(0.75, 1.25)  # noqa: S311 - jitter is no secret

    def wants_to_know(self, completed: int, unacked: int) -> bool:
        """Whether to ask the broker: not while deliveries come, nor while there is no room for more."""
        if completed != self._completed or unacked >= self._prefetch:
            self._completed, self._quiet = completed, 0
            return False
        self._quiet += 1
        return True

    def is_forgotten(self, ready: int, consumers: int, unacked: int) -> bool:
        """Whether to subscribe again: nobody consumes, or messages wait for long, or, to be sure, after long quiet."""
        if consumers == 0:
            return True
        if ready > 0 and self._quiet >= _LOOKS_WITH_BACKLOG:
            return True
        return unacked == 0 and self._quiet >= _LOOKS_WITHOUT
