"""What is told of a service's health, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from xml_pipeline.health.pulse import Pulse

# Seconds that a subscription may be lost while the broker is there: by then it was to be made again many times over.
SUBSCRIBE_LIMIT = 60.0


class Phase(StrEnum):
    """Where a process stands."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `age`: seconds since the loop turned, or since the state is what it is."""

    name: str
    ok: bool
    state: str
    age: float


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to whoever asks; it names no addresses."""

    ok: bool
    phase: Phase
    checks: tuple[Check, ...]

    def as_json(self) -> dict[str, object]:
        """The body of an answer."""
        checks = [asdict(check) | {"age": round(check.age, 1)} for check in self.checks]
        return {"ok": self.ok, "phase": self.phase.value, "checks": checks}


@dataclass(slots=True, eq=False)
class Condition:
    """Something that holds or does not, and since when. `needed`: a service without it is not ready."""

    name: str
    ask: Callable[[], bool]
    needed: bool
    since: float
    holds: bool = True

    def look(self, now: float) -> None:
        """Note whether it holds."""
        holds = self.ask()
        if holds is not self.holds:
            self.holds, self.since = holds, now

    def check(self, now: float) -> Check:
        """What was seen last."""
        return Check(self.name, self.holds or not self.needed, "up" if self.holds else "down", now - self.since)


def pulse_check(pulse: Pulse, now: float) -> Check:
    """Whether a loop makes progress."""
    alive = pulse.is_alive(now)
    late = pulse.is_late(now)
    return Check(pulse.name, alive, "late" if late else pulse.beat.value, now - pulse.since)


def lost_checks(subscriptions: Iterable[Condition], broker: Condition | None, now: float) -> list[Check]:
    """The subscriptions that stay lost although the broker is there: nobody makes them again."""
    if broker is None or not broker.holds or now - broker.since <= SUBSCRIBE_LIMIT:
        return []
    lost = (one for one in subscriptions if not one.holds and now - one.since > SUBSCRIBE_LIMIT)
    return [Check(one.name, ok=False, state="lost", age=now - one.since) for one in lost]
