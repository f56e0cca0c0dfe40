"""Decides from the outside when a subscription has to be made anew.

RabbitMQ cancels the consumers of a deleted queue, except when a quorum queue is declared again within some
milliseconds: then a consumer looks attached, the queue hands messages to it, and they never leave the broker.
"""

from __future__ import annotations

import random
from typing import Final

LOOK_SECONDS: Final = 2.0
_QUIET_LOOKS: Final = 3


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

    def is_doubtful(self, ready: int, consumers: int, unacked: int) -> bool:
        """Whether to subscribe anew: nobody consumes, or messages wait for long, or it is quiet and costs nothing."""
        return consumers == 0 or (self._quiet >= _QUIET_LOOKS and (ready > 0 or unacked == 0))
