"""Who is alive and who is ready, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.health.checks import SUBSCRIBE_LIMIT, Phase, Report
from xml_pipeline.health.health import BROKER, STEP_LIMIT, Health
from xml_pipeline.health.pulse import Beat, Pulse, beat, rest
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.server.live.outbox import Outbox

TIMES = st.floats(0, 1e6)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    health = Health(clock)
    health.started()
    return health


class Steps:
    """A loop that goes on when the test says so, and does in each step what it is told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def resting(self) -> None:
        while True:
            await rest(self._told())

    async def retrying(self) -> None:
        while True:
            await self._told()
            await asyncio.create_task(_beat_deep_inside())

    async def hanging(self) -> None:
        while True:
            await self._told()

    async def _told(self) -> None:
        await self.go.wait()
        self.go.clear()
        if self.error is not None:
            raise self.error


async def _beat_deep_inside() -> None:
    beat()


async def turn(steps: Steps) -> None:
    steps.go.set()
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def running(loop: asyncio.Task[None]) -> AsyncIterator[asyncio.Task[None]]:
    await asyncio.sleep(0)
    try:
        yield loop
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError, ZeroDivisionError):
            await loop


def states(report: Report) -> dict[str, tuple[str, float]]:
    return {check.name: (check.state, check.age) for check in report.checks}


@given(since=TIMES, age=TIMES, limit=TIMES)
def test_only_what_works_is_late(since: float, age: float, limit: float) -> None:
    clock = Clock()
    clock.now = since
    pulse = Pulse("one", limit, clock)
    now = since + age
    assert pulse.is_alive(now) == (now - since <= limit)
    pulse.note(Beat.RESTING)
    assert pulse.is_alive(now)
    pulse.note(Beat.ENDED)
    assert not pulse.is_alive(now)


async def test_a_step_that_hangs_is_not_alive_and_not_ready(health: Health, clock: Clock) -> None:
    async with running(asyncio.create_task(health.loop("one", Steps().hanging))):
        clock.now += STEP_LIMIT
        assert health.alive().ok
        clock.now += 1
        assert (health.alive().ok, health.ready().ok) == (False, False)
        assert states(health.alive()) == states(health.ready()) == {"one": ("late", STEP_LIMIT + 1)}


async def test_a_loop_that_waits_for_work_is_alive_for_ever(health: Health, clock: Clock) -> None:
    steps = Steps()
    async with running(asyncio.create_task(health.loop("one", steps.resting))):
        clock.now += 1e6
        assert (health.alive().ok, states(health.alive())) == (True, {"one": ("resting", 1e6)})
        await turn(steps)
        assert states(health.alive()) == {"one": ("resting", 0.0)}


async def test_a_retry_deep_inside_a_step_is_progress(health: Health, clock: Clock) -> None:
    steps = Steps()
    async with running(asyncio.create_task(health.loop("one", steps.retrying))):
        for _ in range(3):
            clock.now += STEP_LIMIT
            await turn(steps)
        assert states(health.alive()) == {"one": ("working", 0.0)}


async def test_loops_do_not_beat_for_one_another(health: Health, clock: Clock) -> None:
    lively, stuck = Steps(), Steps()
    async with (
        running(asyncio.create_task(health.loop("lively", lively.retrying))),
        running(asyncio.create_task(health.loop("stuck", stuck.hanging))),
    ):
        clock.now += STEP_LIMIT + 1
        await turn(lively)
        assert states(health.alive()) == {"lively": ("working", 0.0), "stuck": ("late", STEP_LIMIT + 1)}


async def test_a_loop_that_died_is_told(health: Health) -> None:
    steps = Steps()
    async with running(asyncio.create_task(health.loop("one", steps.resting))) as loop:
        steps.error = ZeroDivisionError()
        await turn(steps)
        assert loop.done()
        assert (health.alive().ok, states(health.alive())["one"][0]) == (False, "ended")


async def test_a_loop_that_was_cancelled_is_forgotten(health: Health) -> None:
    async with running(asyncio.create_task(health.loop("one", Steps().resting))):
        assert states(health.alive()).keys() == {"one"}
    assert (health.alive().ok, states(health.alive())) == (True, {})


async def test_who_stops_is_alive_and_not_ready_whatever_ends(health: Health, clock: Clock) -> None:
    async with running(asyncio.create_task(health.loop("one", Steps().hanging))):
        clock.now += STEP_LIMIT + 1
        health.stopping()
        assert (health.alive().ok, health.ready().ok, health.phase) == (True, False, Phase.STOPPING)
        health.started()
        assert health.phase is Phase.STOPPING


def test_who_starts_is_alive_and_not_ready(clock: Clock) -> None:
    health = Health(clock)
    assert (health.alive().ok, health.ready().ok, health.phase) == (True, False, Phase.STARTING)


def test_ready_is_who_has_all_that_is_needed(health: Health, clock: Clock) -> None:
    there = {"needed": True, "nice": True}
    health.condition("needed", lambda: there["needed"])
    health.condition("nice", lambda: there["nice"], needed=False)
    assert health.ready().ok
    there["nice"] = False
    clock.now += 3
    assert (health.ready().ok, states(health.ready())["nice"]) == (True, ("down", 0.0))
    there["needed"] = False
    health.look()
    clock.now += 4
    assert (health.ready().ok, states(health.ready())) == (False, {"needed": ("down", 4.0), "nice": ("down", 4.0)})
    assert health.alive().ok
    there["needed"] = True
    assert health.ready().ok


def test_a_subscription_that_nobody_makes_again_is_not_alive(health: Health, clock: Clock) -> None:
    there = {"broker": True, "queue": True}
    health.condition(BROKER, lambda: there["broker"])
    health.subscription("queue", lambda: there["queue"])
    there["queue"] = False
    assert (health.alive().ok, health.ready().ok) == (True, False)
    clock.now += SUBSCRIBE_LIMIT + 1
    assert (health.alive().ok, states(health.alive())) == (False, {"queue": ("lost", SUBSCRIBE_LIMIT + 1)})


def test_a_subscription_waits_for_a_broker_that_is_gone(health: Health, clock: Clock) -> None:
    there = {"broker": False, "queue": False}
    health.condition(BROKER, lambda: there["broker"])
    health.subscription("queue", lambda: there["queue"])
    health.look()
    clock.now += 1e6
    assert health.alive().ok
    there["broker"] = True
    health.look()
    clock.now += SUBSCRIBE_LIMIT
    assert health.alive().ok
    clock.now += 1
    assert not health.alive().ok


async def test_a_process_of_several_services_tells_of_all(clock: Clock) -> None:
    whole = Health(clock)
    one, two = whole.part("one"), whole.part("two")
    one.started()
    assert whole.phase is Phase.STARTING
    two.started()
    one.condition("database", lambda: True)
    async with running(asyncio.create_task(two.loop("sweep", Steps().hanging))):
        assert (whole.alive().ok, whole.ready().ok, whole.phase) == (True, True, Phase.RUNNING)
        clock.now += STEP_LIMIT + 1
        assert states(whole.alive()) == {"two.sweep": ("late", STEP_LIMIT + 1)}
        assert states(whole.ready()).keys() == {"one.database", "two.sweep"}
        assert not whole.ready().ok
    two.stopping()
    assert (whole.phase, one.phase) == (Phase.STOPPING, Phase.RUNNING)


def test_outside_of_loops_beats_are_nothing() -> None:
    beat()
    assert asyncio.run(rest(asyncio.sleep(0, "done"))) == "done"


async def test_a_gateways_outbox_makes_progress_while_no_broker_takes_anything(
    clock: Clock, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, enough, beats = MemoryBroker().connect(), asyncio.Event(), Outgoing("events", "heartbeat", b"")
    outbox = Outbox(bus, Names("quiet"))

    async def publish(messages: Sequence[Outgoing], *, timeout: float = 5.0) -> list[Published]:
        clock.now += timeout
        assert health.alive().ok
        if clock.now < 1000.0 + 3 * STEP_LIMIT:
            outbox.add([beats])
        else:
            enough.set()
        return [Published.UNKNOWN] * len(messages)

    monkeypatch.setattr(bus, "publish", publish)
    outbox.add([beats])
    async with running(asyncio.create_task(health.loop("outbox", outbox.run))), asyncio.timeout(10):
        await enough.wait()
