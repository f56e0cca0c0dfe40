"""A broker that goes, stands still, or forgets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.checker import Allowed
from tests.chaos.ground import queues_of
from tests.chaos.run import Fault, Stage
from tests.chaos.tools.broker_control import BrokerControl, memory_alarm

# What was handed out before may be past its deadline when the broker is back.
LATE = Allowed(reruns=True, errors=False)
# What the broker forgot was confirmed: assignments run again, usage is booked at the size of its hold.
FORGOTTEN = Allowed(expired=True, reruns=True, errors=False)
OUTAGE = 3.0


@contextmanager
def restarted(stage: Stage) -> Iterator[None]:
    """Stopped in order."""
    stage.ground.node.stop()
    try:
        yield
    finally:
        stage.ground.node.start()


@contextmanager
def killed(stage: Stage) -> Iterator[None]:
    """SIGKILL: what it confirmed is on its disk."""
    stage.ground.node.kill()
    try:
        yield
    finally:
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
    try:
        yield
    finally:
        stage.ground.node.wipe()
        stage.ground.node.start()


_UNCONFIRMED = "select count(*) from messages where state = 'out' and not confirmed"


@contextmanager
def alarmed(stage: Stage) -> Iterator[None]:
    """It says that it is out of memory, and takes nothing from those who publish."""
    with memory_alarm(stage.ground.node):
        yield
        stage.require(stage.count(_UNCONFIRMED), "messages that the broker has not taken")


@contextmanager
def purged(stage: Stage) -> Iterator[None]:
    """What waits in its queues is dropped, each time while nobody consumes, so that there is something."""
    control = BrokerControl(stage.amqp_url)
    for name in ("agent-worker", "router", "usage"):
        with stage.crew.gone(stage.victims(name)):
            stage.crew.wait(OUTAGE / 2)
            dropped = sum(control.purge(queue) for queue in queues_of(stage.organism))
        stage.require(dropped, f"messages dropped while no {name} was there")
        stage.healed_at = time.time()
    yield


@contextmanager
def queues_deleted(stage: Stage) -> Iterator[None]:
    """Its queues are deleted, used as they are."""
    control = BrokerControl(stage.amqp_url)
    queues = queues_of(stage.organism)
    stage.chance.shuffle(queues)
    lost = sum(control.delete(queue) for queue in queues)
    stage.healed_at = time.time()
    stage.notes.append(f"{len(queues)} queues deleted, {lost} messages went with them")
    yield


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
    Fault(
        "memory-alarm",
        "A broker that blocks its publishers: injects are accepted, and wait in the database",
        alarmed,
        hold=10.0,
        target=5.0,
        allowed=LATE,
    ),
    Fault(
        "queues-purged",
        "Queues purged under load: what was in them is handed out again",
        purged,
        hold=1.0,
        target=5.0,
        allowed=FORGOTTEN,
    ),
    Fault(
        "queues-deleted",
        "Queues deleted under load: they are made again, and what was in them is handed out again",
        queues_deleted,
        hold=1.0,
        target=10.0,
        allowed=FORGOTTEN,
    ),
)
