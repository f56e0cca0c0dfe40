"""Services that die, at their worst moments among others, and services that stand still."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from random import Random

from tests.chaos.checker import Allowed
from tests.chaos.crew import Place, Wire, Wiring
from tests.chaos.ground import Ground
from tests.chaos.run import Fault, Stage, Strike
from tests.chaos.tools.processes import stopped

TIMES = 3
PAUSE = 2.5
# Longer than two heartbeats of 10 seconds: the broker has given the connection up by then.
STANDSTILL = 26.0
TWO_HEARTBEATS = 20.0
# Passes of a failpoint until it kills: some, so that there is something to be lost.
PASSES = (20, 60)
FEW_PASSES = (4, 12)  # where one request is one pass

# Usage of calls whose worker died before it could tell is booked at the size of their holds.
WITH_WORKERS = Allowed(expired=True)


def killed(name: str) -> Strike:
    """SIGKILL one of these services, three times, each time any."""

    @contextmanager
    def strike(stage: Stage) -> Iterator[None]:
        for _ in range(TIMES):
            stage.healed_at = stage.crew.kill(stage.victim(name))
            stage.crew.wait(PAUSE)
        yield

    return strike


def armed(name: str, failpoint: str) -> Callable[[Ground, Random], AbstractContextManager[Wire]]:
    """The first of these services dies at a failpoint."""

    @contextmanager
    def wire(ground: Ground, chance: Random) -> Iterator[Wire]:
        def how(service: str, number: int) -> Wiring:
            return _mortal(Wiring(), failpoint, chance) if (service, number) == (name, 0) else Wiring()

        yield how

    return wire


def killed_at(name: str, failpoint: str, times: int) -> Strike:
    """Wait until it has died there, start it again, and have it die again; the last one lives."""

    @contextmanager
    def strike(stage: Stage) -> Iterator[None]:
        place = stage.crew.of(name)[0]
        for left in reversed(range(times)):
            stage.healed_at = stage.crew.wait_ended(place)
            stage.struck_at = min(stage.struck_at, stage.healed_at)
            _require_sigkill(place)
            again = _mortal(place.wiring, failpoint, stage.chance) if left else _immortal(place.wiring)
            stage.crew.restart(place, again)
        yield

    return strike


def suspended(name: str, seconds: float) -> Strike:
    """SIGSTOP one of these services with all its processes, and SIGCONT."""

    @contextmanager
    def strike(stage: Stage) -> Iterator[None]:
        place = stage.victim(name)
        with stopped([place.service.process.pid]):
            stage.crew.wait(seconds)
        yield

    return strike


@contextmanager
def rolling_restart(stage: Stage) -> Iterator[None]:
    """Every service is stopped in order and started again, one after the other, as an upgrade does."""
    places = [place for place in stage.crew.places if place.number not in stage.spared]
    stage.chance.shuffle(places)
    for place in places:
        stage.crew.stop(place)
        stage.crew.restart(place)
        stage.healed_at = time.time()
        stage.crew.wait(PAUSE)
    yield


def _mortal(wiring: Wiring, failpoint: str, chance: Random) -> Wiring:
    passes = chance.randint(*(FEW_PASSES if failpoint.startswith("gateway.") else PASSES))
    return replace(wiring, environment={"ORGANISM_FAILPOINTS": f"{failpoint}=kill@{passes}"}, mortal=True)


def _immortal(wiring: Wiring) -> Wiring:
    return replace(wiring, environment={}, mortal=False)


def _require_sigkill(place: Place) -> None:
    if place.service.process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"{place.label} ended with {place.service.process.returncode}, not by its failpoint")


def _at(
    name: str,
    failpoint: str,
    promise: str,
    allowed: Allowed | None = None,
    *,
    times: int = TIMES,
    short: bool = False,
) -> Fault:
    return Fault(
        name=failpoint.replace(".", "-"),
        promise=promise,
        strike=killed_at(name, failpoint, times),
        target=2.0,
        allowed=allowed or Allowed(),
        wire=armed(name, failpoint),
        short=short,
    )


FAULTS = (
    Fault(
        "worker-killed",
        "A worker that dies in the middle of an LLM call: another takes over what it had; the call is booked",
        killed("agent-worker"),
        target=2.0,
        allowed=WITH_WORKERS,
        short=True,
    ),
    _at(
        *("agent-worker", "worker.before-publish"),
        "A worker that dies with a turn in its hands: the handler runs again, elsewhere",
        WITH_WORKERS,
    ),
    _at(
        *("agent-worker", "worker.before-ack"),
        "A worker that dies after its turn was confirmed and before it acknowledged: the turn counts once",
        WITH_WORKERS,
    ),
    _at("router", "router.before-commit", "A router that dies before its commit: another does the batch", short=True),
    _at("router", "router.after-commit", "A router that dies after its commit: nothing of the batch is done twice"),
    _at("router", "router.before-publish", "A router that dies before it hands out: a sweep hands it out"),
    _at("router", "router.before-confirm", "A router that dies before it has read the confirms: handed out once more"),
    _at("router", "router.before-ack", "A router that dies before its ack: the batch comes again and changes nothing"),
    Fault(
        "gateway-killed",
        "A gateway that dies in the middle of a POST: the same key at another one gets the one answer",
        killed("gateway"),
        target=2.0,
        short=True,
    ),
    _at(
        "gateway", "gateway.before-commit", "A gateway that dies before it has accepted: the same key is accepted later"
    ),
    _at(
        "gateway",
        "gateway.after-commit",
        "A gateway that dies before it can say that it has accepted: the same key tells",
    ),
    _at(
        *("usage", "usage.before-commit"),
        "A ledger that dies before its commit: another books the events",
        times=6,  # each batch has an event in it or not
        short=True,
    ),
    _at("usage", "usage.after-commit", "A ledger that dies after its commit: no event is booked twice"),
    _at("usage", "usage.before-ack", "A ledger that dies before its ack: no event is booked twice"),
    Fault(
        "worker-suspended",
        "A worker that stands still for longer than the heartbeat, and wakes up: its late turns change nothing",
        suspended("agent-worker", STANDSTILL),
        target=TWO_HEARTBEATS,
        allowed=Allowed(expired=True, reruns=True),
    ),
    Fault(
        "router-suspended",
        "A router that stands still, perhaps inside a transaction: its locks are taken from it",
        suspended("router", STANDSTILL),
        target=TWO_HEARTBEATS,
        allowed=Allowed(reruns=True),
    ),
    Fault(
        "rolling-restart",
        "Every service stopped in order and started again under load: nothing is lost, nothing runs twice",
        rolling_restart,
        target=5.0,
        allowed=Allowed(twice=False),
        short=True,
    ),
)
