"""Which services are alive, by their heartbeats."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from xml_pipeline.message_bus.messages import Heartbeat

ALIVE_FOR = 5.0


@dataclass(slots=True)
class Presence:
    """The last heartbeat of each instance; times in seconds of one monotonic clock."""

    _last: dict[tuple[str, str], tuple[float, Heartbeat]] = field(default_factory=dict)

    def note(self, heartbeat: Heartbeat, now: float) -> None:
        """A heartbeat came."""
        key = heartbeat.service, heartbeat.instance
        if key not in self._last:
            # Whether or not anybody asks who is alive: each restart of a service is another instance.
            self._forget_gone(now)
        self._last[key] = (now, heartbeat)

    def is_complete(self, listeners: Collection[str], now: float) -> bool:
        """Whether a router, a usage service and a worker for every listener are alive."""
        alive = self._alive(now)
        services = {heartbeat.service for heartbeat in alive}
        served = {name for heartbeat in alive if heartbeat.service == "agent-worker" for name in heartbeat.listeners}
        return {"router", "usage"} <= services and served.issuperset(listeners)

    def _alive(self, now: float) -> list[Heartbeat]:
        self._forget_gone(now)
        return [heartbeat for _, heartbeat in self._last.values()]

    def _forget_gone(self, now: float) -> None:
        self._last = {key: seen for key, seen in self._last.items() if now - seen[0] <= ALIVE_FOR}
