"""What the live workers can hold, by their heartbeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from xml_pipeline.message_bus.messages import Heartbeat

# A worker that was not heard of for so many seconds holds nothing.
LIFETIME = 5.0


@dataclass(frozen=True, slots=True)
class _Heard:
    heartbeat: Heartbeat
    at: float


@dataclass(slots=True)
class LiveWorkers:
    """Remembers the last heartbeat of each worker. Times are seconds of a monotonic clock."""

    started_at: float
    _heard: dict[str, _Heard] = field(default_factory=dict)

    def hear(self, heartbeat: Heartbeat, now: float) -> None:
        """Take a heartbeat in; those of other services say nothing about capacity."""
        if heartbeat.service != "agent-worker":
            return
        if heartbeat.instance not in self._heard:
            # Also while no round of the sweep asks for capacities, as without a database.
            self._forget_gone(now)
        self._heard[heartbeat.instance] = _Heard(heartbeat, now)

    def all_heard(self, now: float) -> bool:
        """Whether every live worker had the time to be heard; before that, capacities are lower bounds."""
        return now - self.started_at >= LIFETIME

    def capacities(self, listeners: Iterable[str], now: float) -> dict[str, int]:
        """How many handlers run at once for each of these listeners, by the workers that were heard."""
        self._forget_gone(now)
        total: Counter[str] = Counter()
        for heard in self._heard.values():
            total.update(dict.fromkeys(heard.heartbeat.listeners, heard.heartbeat.capacity))
        return {name: total[name] for name in listeners}

    def _forget_gone(self, now: float) -> None:
        self._heard = {name: heard for name, heard in self._heard.items() if now - heard.at < LIFETIME}
