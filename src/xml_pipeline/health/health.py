"""The health of a service: alive is who makes progress, ready is who takes work now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from xml_pipeline.health.checks import Check, Condition, Phase, Report, lost_checks, pulse_check
from xml_pipeline.health.pulse import Beat, Clock, Pulse

T = TypeVar("T")

# Seconds that one step of a loop may take. It is more than what the timeouts on broker and database add up to: only a
# step that hangs is late.
STEP_LIMIT = 90.0
BROKER = "broker"


class Health:
    """What is known of one service, or of a process with several services as its parts."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._phase = Phase.STARTING
        self._pulses: list[Pulse] = []
        self._conditions: list[Condition] = []
        self._subscriptions: list[Condition] = []
        self._parts: dict[str, Health] = {}

    def part(self, name: str) -> Health:
        """One of the services in this process: its checks are told as `<name>.<check>`."""
        part = self._parts[name] = Health(self._clock)
        return part

    # What a service tells

    def started(self) -> None:
        """It takes work from now on."""
        if self._phase is Phase.STARTING:
            self._phase = Phase.RUNNING

    def stopping(self) -> None:
        """It takes no more work."""
        self._phase = Phase.STOPPING
        for part in self._parts.values():
            part.stopping()

    async def loop(self, name: str, work: Callable[[], Awaitable[T]], *, limit: float = STEP_LIMIT) -> T:
        """Run what goes on until it is cancelled: once it has ended by itself, the service is not alive."""
        pulse = Pulse(name, limit, self._clock)
        self._pulses.append(pulse)
        try:
            with pulse.carried():
                return await work()
        except asyncio.CancelledError:
            self._pulses.remove(pulse)
            raise
        finally:
            pulse.note(Beat.ENDED)

    def condition(self, name: str, holds: Callable[[], bool], *, needed: bool = True) -> None:
        """What has to hold for the service to be ready, or is told beside."""
        self._conditions.append(Condition(name, holds, needed, self._clock()))

    def subscription(self, name: str, healthy: Callable[[], bool], *, needed: bool = True) -> None:
        """A consumer of the broker: like a condition, and a service is not alive with one that stays lost."""
        self._subscriptions.append(Condition(name, healthy, needed, self._clock()))

    # What is asked of it

    @property
    def parts(self) -> Mapping[str, Health]:
        """The services in this process, by name; none where it is one service."""
        return self._parts

    @property
    def phase(self) -> Phase:
        """With parts: starting until all have started, stopping as soon as one does."""
        phases = {part.phase for part in self._parts.values()} or {self._phase}
        return next(phase for phase in (Phase.STOPPING, Phase.STARTING, Phase.RUNNING) if phase in phases)

    def look(self) -> None:
        """Note what holds: since when it does is known as exactly as this is called often."""
        now = self._clock()
        for condition in (*self._conditions, *self._subscriptions):
            condition.look(now)
        for part in self._parts.values():
            part.look()

    def alive(self) -> Report:
        """Whether all loops make progress. Who stops is alive: whoever asked for it waits for the end."""
        self.look()
        checks, phase = self._named(Health._live_checks), self.phase
        return Report(phase is Phase.STOPPING or _all_ok(checks), phase, checks)

    def ready(self) -> Report:
        """Whether it takes work now: all that it needs is there, and no loop hangs."""
        self.look()
        checks, phase = self._named(Health._ready_checks), self.phase
        return Report(phase is Phase.RUNNING and _all_ok(checks), phase, checks)

    def _named(self, own: Callable[[Health, float], list[Check]]) -> tuple[Check, ...]:
        parts = ((name, check) for name, part in self._parts.items() for check in part._named(own))
        named = (replace(check, name=f"{name}.{check.name}") for name, check in parts)
        return (*own(self, self._clock()), *named)

    def _live_checks(self, now: float) -> list[Check]:
        broker = next((one for one in self._conditions if one.name == BROKER), None)
        return [
            *(pulse_check(pulse, now) for pulse in self._pulses),
            *lost_checks(self._subscriptions, broker, now),
        ]

    def _ready_checks(self, now: float) -> list[Check]:
        conditions = [condition.check(now) for condition in (*self._conditions, *self._subscriptions)]
        return [*conditions, *(check for check in self._live_checks(now) if not check.ok)]


def _all_ok(checks: tuple[Check, ...]) -> bool:
    return all(check.ok for check in checks)
