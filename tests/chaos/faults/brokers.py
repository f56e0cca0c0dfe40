"""A broker that goes, stands still, or forgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.checker import Allowed
from tests.chaos.run import Fault, Stage

# What was handed out before may be past its deadline when the broker is back.
LATE = Allowed(reruns=True)
# What the broker forgot was confirmed: assignments run again, usage is booked at the size of its hold.
FORGOTTEN = Allowed(expired=True, reruns=True)
OUTAGE = 3.0


@contextmanager
def restarted(stage: Stage) -> Iterator[None]:
    """Stopped in order."""
    stage.ground.node.stop()
    yield
    stage.ground.node.start()


@contextmanager
def killed(stage: Stage) -> Iterator[None]:
    """SIGKILL: what it confirmed is on its disk."""
    stage.ground.node.kill()
    yield
    stage.ground.node.start()


@contextmanager
def suspended(stage: Stage) -> Iterator[None]:
    """SIGSTOP: connections stay open, nothing answers."""
    stage.ground.node.suspend()
    try:
        yield
    finally:
        stage.ground.node.resume()


@contextmanager
def emptied(stage: Stage) -> Iterator[None]:
    """It comes back as another one would: no queues, no messages."""
    stage.ground.node.kill()
    yield
    stage.ground.node.wipe()
    stage.ground.node.start()


FAULTS = (
    Fault(
        "broker-restarted",
        "A broker that is stopped and started: everything goes on by itself",
        restarted,
        hold=OUTAGE,
        target=10.0,
        allowed=LATE,
    ),
    Fault(
        "broker-killed",
        "A broker that dies: what it confirmed is there when it is back",
        killed,
        hold=OUTAGE,
        target=10.0,
        allowed=LATE,
        short=True,
    ),
    Fault(
        "broker-suspended",
        "A broker that stands still: injects are accepted, and everything goes on when it answers again",
        suspended,
        hold=25.0,
        target=20.0,
        allowed=LATE,
    ),
    Fault(
        "broker-emptied",
        "A broker that comes back empty: all that it held is made again from the database",
        emptied,
        hold=OUTAGE,
        target=10.0,
        allowed=FORGOTTEN,
        short=True,
    ),
)
