"""A child of the pool with what it runs, and the watch that is kept over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from xml_pipeline.worker.jobs import Job, opaque
from xml_pipeline.worker.process import ChildProcess
from xml_pipeline.worker.wire import Cancel, FromChild, Ping, Ready, Run

# A handler's limit is kept by the child itself. One that is so late, in seconds, says that the child does not keep it.
OVERDUE_MARGIN = 5.0
_SHORTEST_BLOCK = 0.5


class State(Enum):
    """`RETIRING` takes no new runs, and goes when it has none."""

    STARTING = auto()
    READY = auto()
    RETIRING = auto()
    GONE = auto()


@dataclass(slots=True)
class Watch:
    """How long a child has been in one step, or has said nothing: in seconds that the worker itself was running."""

    step: tuple[int, int] = (0, 0)
    in_step: float = 0.0
    silent: float = 0.0
    waiting: bool = False

    def look(self, step: tuple[int, int], elapsed: float) -> None:
        """The marker's step `elapsed` seconds after the last look."""
        same = step[0] != 0 and step == self.step
        self.in_step = self.in_step + elapsed if same else 0.0
        self.step = step
        self.silent = self.silent + elapsed if self.waiting else 0.0


@dataclass(frozen=True, slots=True)
class Assigned:
    """A job in a child, since `started` on the pool's clock."""

    job: Job
    started: float


@dataclass(slots=True, eq=False)
class Member:
    """One child. `alone`: it gets one run at a time, so that a death has one culprit."""

    process: ChildProcess
    generation: int
    alone: bool
    ready: asyncio.Future[Ready]
    state: State = State.STARTING
    runs: dict[int, Assigned] = field(default_factory=dict)
    watch: Watch = field(default_factory=Watch)
    idle: float = 0.0
    stuck: bool = False
    blocked_by: int | None = None

    def assign(self, run: int, job: Job, now: float) -> None:
        """Have it run a job."""
        self.runs[run] = Assigned(job, now)
        job.begins()
        self.process.send(run_of(run, job))

    def cancel(self, job: Job) -> None:
        """Cancel a job, if it is here."""
        for run, assigned in self.runs.items():
            if assigned.job is job:
                self.process.send(Cancel(run))

    def ping(self) -> None:
        """Ask for a sign of life, unless it owes one."""
        if not self.watch.waiting:
            self.watch.waiting = True
            self.process.send(Ping(0))

    def heard(self) -> None:
        """It has said something."""
        self.watch.waiting = False

    def look(self, elapsed: float) -> None:
        """Read its marker."""
        if self.process.marker is not None:
            self.watch.look(self.process.marker.step, elapsed)

    def blocking(self, limit: float) -> int | None:
        """The run that has been holding up the event loop for too long."""
        run = self.watch.step[0]
        assigned = self.runs.get(run)
        if assigned is not None:
            limit = min(limit, max(assigned.job.assignment.timeout, _SHORTEST_BLOCK))
        return run if run and self.watch.in_step >= limit else None

    def overdue(self, now: float) -> list[int]:
        """Runs whose time has long been up."""
        return [
            run
            for run, assigned in self.runs.items()
            if now - assigned.started > assigned.job.assignment.timeout + OVERDUE_MARGIN
        ]


def make_member(
    generation: int,
    *,
    alone: bool,
    on_message: Callable[[Member, FromChild], None],
    on_lost: Callable[[Member, str], None],
) -> Member:
    """A member whose process is not started yet."""
    process = ChildProcess(lambda message: on_message(member, message), lambda reason: on_lost(member, reason))
    member = Member(process, generation, alone, asyncio.get_running_loop().create_future())
    return member


def run_of(run: int, job: Job) -> Run:
    """What a child is told of a job: never the thread, nor the call."""
    assignment = job.assignment
    return Run(
        run=run,
        message_id=assignment.message_id,
        listener=job.listener,
        kind=assignment.kind,
        from_id=assignment.envelope.from_id,
        thread=opaque(job.listener, assignment.envelope.thread_id),
        call=opaque(job.listener, assignment.call),
        attempt=assignment.attempt,
        timeout=assignment.timeout,
        remaining=assignment.remaining,
        payload=assignment.envelope.payload,
        replies=tuple(reply.payload for reply in assignment.replies),
        traceparent=job.trail.traceparent,
    )
