"""A database that goes, stands still, or throws its clients out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.checker import Allowed
from tests.chaos.run import Fault, Stage
from tests.chaos.tools.backends import BackendTerminator
from tests.chaos.tools.processes import stopped


@contextmanager
def stopped_at_once(stage: Stage) -> Iterator[None]:
    """The server's immediate stop: as a crash, and it recovers when it is started."""
    stage.ground.databases.server.kill()
    try:
        yield
    finally:
        stage.ground.databases.server.start()


@contextmanager
def suspended(stage: Stage) -> Iterator[None]:
    """SIGSTOP for the server and all its backends."""
    with stopped([stage.ground.databases.server.pid]):
        yield


@contextmanager
def backends_terminated(stage: Stage) -> Iterator[None]:
    """Every client is thrown out, again and again."""
    with BackendTerminator(stage.ground.databases.server.url(), every=2.0) as terminator:
        yield
    stage.require(terminator.terminated, f"sessions ended in {terminator.rounds} rounds")


FAULTS = (
    Fault(
        "database-killed",
        "A database that crashes and recovers: the API says so meanwhile, and everything goes on",
        stopped_at_once,
        hold=3.0,
        target=5.0,
        short=True,
    ),
    Fault(
        "database-suspended",
        "A database that stands still: nothing hangs past its timeout, and everything goes on",
        suspended,
        hold=12.0,
        target=5.0,
        allowed=Allowed(reruns=True),
    ),
    Fault(
        "backends-terminated",
        "All database connections cut every two seconds: transactions are done again",
        backends_terminated,
        hold=16.0,
        target=5.0,
    ),
)
