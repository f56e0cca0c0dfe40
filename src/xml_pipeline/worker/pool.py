"""The children of a worker: who runs what, who died and of what, who is to be replaced."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Protocol

import structlog

from xml_pipeline.envelope.model import Outcome
from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.health.pulse import beat
from xml_pipeline.logs import log_ids
from xml_pipeline.stopping import CHILDREN
from xml_pipeline.worker.blame import DEATHS_UNTIL_ALONE, Verdict, blame
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.member import Member, State, make_member
from xml_pipeline.worker.settings import WorkerSettings
from xml_pipeline.worker.tasks import end_tasks
from xml_pipeline.worker.wire import Done, Failed, FromChild, LedgerAsk, Ping, Ready, Start

log = structlog.get_logger(__name__)

TICK = 0.25
_START_LIMIT = 60.0
_EXIT_LIMIT = 2.0
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
_ALONE_IDLE = 30.0
_MOST_ALONE = 4
_KILLED = Done(0, Outcome.ERROR, reason="killed")


class ChildFailed(XmlPipelineError):
    """A child process cannot be started, or cannot load the organism."""

    code = "child-failed"


class PoolEvents(Protocol):
    """Who is told what comes from children."""

    def finished(self, job: Job, done: Done) -> None:
        """A job has ended, in whatever way; once for each job that was submitted."""
        ...

    def asked(self, member: Member, job: Job | None, ask: LedgerAsk) -> None:
        """A child asks the ledger; `job` is None where its run has ended."""
        ...

    def left(self, member: Member, *, expected: bool) -> None:
        """A child is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """The organism that children load."""

    text: str
    folder: str


class Pool:
    """N children of one generation, those of the one before until they are done, and some for suspects."""

    def __init__(self, source: Source, settings: WorkerSettings, events: PoolEvents) -> None:
        self._source = source
        self._settings = settings
        self._events = events
        self._members: set[Member] = set()
        self._waiting: deque[Job] = deque()
        self._suspects: deque[Job] = deque()
        self._runs = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._clock = 0.0
        self._failures = 0
        self._spawn_after = 0.0
        self._begun = False
        self._closing = False

    async def start(self) -> Ready:
        """Start a child and wait until it has loaded the organism; the others follow. Raises ChildFailed.

        Where several workers start at once, each takes work as soon as it can.
        """
        ready = await self._start_generation(self._source, 0, count=1)
        self._begun = True
        self._fill()
        return ready

    async def replace(self, source: Source) -> Ready:
        """New children for a new organism; the old ones end when they have nothing to do. Raises ChildFailed."""
        ready = await self._start_generation(source, self._generation + 1, count=self._settings.processes)
        self._source = source
        self._generation += 1
        for member in self._where(State.READY, State.STARTING):
            if member.generation < self._generation:
                self._retire(member)
        self._feed()
        return ready

    def submit(self, job: Job) -> None:
        """Have a job run, as soon as a child is ready."""
        self._waiting.append(job)
        self._feed()

    def cancel(self, job: Job) -> None:
        """Cancel a job; it still finishes."""
        job.killed = True
        for member in self._members:
            member.cancel(job)
        for queue in (self._waiting, self._suspects):
            if job in queue:
                queue.remove(job)
                self._events.finished(job, _KILLED)

    def take_waiting(self) -> list[Job]:
        """The jobs that no child runs: they are not run here any more. No more children are started."""
        self._closing = True
        waiting = [*self._waiting, *self._suspects]
        self._waiting.clear()
        self._suspects.clear()
        return waiting

    @property
    def ready(self) -> bool:
        """Whether some child can take a run."""
        return any(self._usable())

    @property
    def size(self) -> int:
        """How many children can take a run."""
        return sum(1 for _ in self._usable())

    @property
    def pids(self) -> list[int]:
        """The processes that can take runs."""
        return [member.process.pid for member in self._usable()]

    async def run(self) -> None:
        """Keep watch, until cancelled."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            beat()
            await asyncio.sleep(TICK)
            now = loop.time()
            # A worker that was itself stopped must not take its own absence for theirs.
            self._tick(min(now - last, 2 * TICK))
            last = now

    async def close(self) -> None:
        """End all children."""
        self._closing = True
        members = tuple(self._members)
        for member in members:
            if member.state is State.STARTING:
                member.process.kill()  # it imports an organism, and would see the end of its connection after that
            member.state = State.GONE
            member.process.disconnect()
        await end_tasks(tuple(self._tasks))
        await asyncio.gather(*(_reap(member) for member in members))
        self._members.clear()

    # Starting

    async def _start_generation(self, source: Source, generation: int, *, count: int) -> Ready:
        members = [self._new(source, generation) for _ in range(count)]
        try:
            async with asyncio.timeout(_START_LIMIT):
                answers = await asyncio.gather(*(asyncio.shield(member.ready) for member in members))
        except (ChildFailed, TimeoutError) as error:
            for member in members:
                self._retire(member)
            raise ChildFailed(str(error) or "a child did not start in time") from None
        return answers[0]

    def _new(self, source: Source, generation: int, *, alone: bool = False) -> Member:
        member = make_member(generation, alone=alone, on_message=self._on_message, on_lost=self._on_lost)
        self._members.add(member)
        self._spawn_task(self._launch(member, source))
        return member

    async def _launch(self, member: Member, source: Source) -> None:
        try:
            await member.process.start()
        except OSError as error:
            self._on_lost(member, f"no process: {error}")
            return
        member.process.send(Start(source.text, source.folder))

    def _spawn_task(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fill(self) -> None:
        """Replace who is gone, more slowly when they do not even start."""
        if not self._begun or self._closing or self._clock < self._spawn_after:
            return
        current = [m for m in self._where(State.STARTING, State.READY) if m.generation == self._generation]
        for _ in range(self._settings.processes - sum(not member.alone for member in current)):
            self._new(self._source, self._generation)
        alone = sum(member.alone and not member.runs for member in current)
        for _ in range(min(len(self._suspects), _MOST_ALONE - sum(member.alone for member in current)) - alone):
            self._new(self._source, self._generation, alone=True)

    # Handing out

    def _where(self, *states: State) -> Iterator[Member]:
        return (member for member in tuple(self._members) if member.state in states)

    def _usable(self) -> Iterator[Member]:
        return (m for m in self._where(State.READY) if m.generation == self._generation and not m.alone)

    def _feed(self) -> None:
        members = list(self._usable())
        while self._waiting and members:
            least = min(members, key=lambda member: len(member.runs))
            least.assign(next(self._runs), self._waiting.popleft(), self._clock)
        if self._suspects:
            self._feed_alone()

    def _feed_alone(self) -> None:
        for member in self._where(State.READY):
            if member.alone and member.generation == self._generation and not member.runs and self._suspects:
                member.assign(next(self._runs), self._suspects.popleft(), self._clock)
        self._fill()

    # What children say

    def _on_message(self, member: Member, message: FromChild) -> None:
        member.heard()
        match message:
            case Done():
                self._on_done(member, message)
            case LedgerAsk():
                assigned = member.runs.get(message.run)
                self._events.asked(member, assigned.job if assigned else None, message)
            case Ready():
                self._on_ready(member, message)
            case Failed(reason):
                self._on_failed(member, reason)
            case Ping():
                pass

    def _on_ready(self, member: Member, ready: Ready) -> None:
        if member.state is not State.STARTING:
            return
        member.state = State.READY
        self._failures = 0
        member.ready.set_result(ready)
        log.info("child_ready", pid=member.process.pid)
        self._feed()

    def _on_failed(self, member: Member, reason: str) -> None:
        if not member.ready.done():
            self._not_started(member, reason)
        self._retire(member)

    def _not_started(self, member: Member, reason: str) -> None:
        member.ready.set_exception(ChildFailed(reason))
        member.ready.exception()  # somebody may be waiting, or nobody
        self._failures += 1
        self._spawn_after = self._clock + min(_FIRST_WAIT * 2**self._failures, _LONGEST_WAIT)
        log.error("child_not_started", pid=member.process.pid, reason=reason)

    def _on_done(self, member: Member, done: Done) -> None:
        assigned = member.runs.pop(done.run, None)
        if assigned is not None:
            self._events.finished(assigned.job, done)
        if done.stuck:
            log.warning("child_stuck", pid=member.process.pid)
            self._retire(member)
        if member.state is State.RETIRING:
            self._retire(member)
        elif member.alone:
            self._feed()

    # Ending

    def _retire(self, member: Member) -> None:
        """It takes no more runs, and ends after the last."""
        if member.state is State.GONE:
            return
        member.state = State.RETIRING
        if not member.runs:
            member.process.disconnect()
        self._fill()

    def _on_lost(self, member: Member, reason: str) -> None:
        if member.state is State.GONE:
            return
        member.idle = 0.0
        expected = member.state is State.RETIRING and not member.runs
        member.state = State.GONE
        self._spawn_task(self._bury(member, reason, expected=expected))

    async def _bury(self, member: Member, reason: str, *, expected: bool) -> None:
        member.process.kill()
        await member.process.wait(_EXIT_LIMIT)
        if not expected:
            log.warning("child_died", pid=member.process.pid, reason=reason, how=member.process.exit_text)
        if not member.ready.done():
            self._not_started(member, f"{reason}: {member.process.exit_text}")
        self._judge(member)
        member.process.close()
        self._members.discard(member)
        self._events.left(member, expected=expected)
        self._fill()
        self._feed()

    def _judge(self, member: Member) -> None:
        """The guilty fails, the others run again."""
        runs, member.runs = member.runs, {}
        marker = member.process.marker
        in_step = marker.step[0] if marker else 0
        verdict = blame(member.blocked_by or in_step, runs, alone=member.alone)
        for run, assigned in runs.items():
            if run == verdict.guilty:
                self._events.finished(assigned.job, self._sentence(member, run))
            else:
                self._again(assigned.job, verdict)

    def _sentence(self, member: Member, run: int) -> Done:
        if member.blocked_by == run:
            seconds = member.watch.in_step
            return Done(run, Outcome.TIMEOUT, reason=f"blocked: it held up the event loop for {seconds:.1f} s")
        return Done(run, Outcome.ERROR, reason=f"child-died: its process ended with {member.process.exit_text}")

    def _again(self, job: Job, verdict: Verdict) -> None:
        if job.killed:
            self._events.finished(job, _KILLED)
            return
        job.deaths += verdict.guilty is None
        (self._waiting if job.deaths < DEATHS_UNTIL_ALONE else self._suspects).append(job)

    # Watching

    def _tick(self, elapsed: float) -> None:
        self._clock += elapsed
        for member in self._where(State.STARTING, State.READY, State.RETIRING):
            self._check(member, elapsed)
        self._fill()

    def _check(self, member: Member, elapsed: float) -> None:
        if member.process.ended:
            member.process.disconnect()  # its connection may be held open by a process that it started
            return
        member.look(elapsed)
        member.blocked_by = member.blocking(self._settings.block_limit)
        limit = _START_LIMIT if member.state is State.STARTING else self._settings.silence_limit
        if member.blocked_by is not None or member.watch.silent > limit:
            blocking = member.runs.get(member.blocked_by or 0)
            log.warning("child_blocked", pid=member.process.pid, **(_log_ids(blocking.job) if blocking else {}))
            member.process.kill()
            return
        member.ping()
        self._end_overdue(member)
        self._end_idle(member, elapsed)

    def _end_overdue(self, member: Member) -> None:
        for run in member.overdue(self._clock):
            assigned = member.runs[run]
            reason = f"not done after {assigned.job.assignment.timeout:g} s"
            self._on_done(member, Done(run, Outcome.TIMEOUT, reason=reason, stuck=True))

    def _end_idle(self, member: Member, elapsed: float) -> None:
        member.idle = 0.0 if member.runs else member.idle + elapsed
        if member.alone and member.idle > _ALONE_IDLE:
            self._retire(member)


def _log_ids(job: Job) -> dict[str, str]:
    return log_ids(job.assignment.envelope.thread_id, job.assignment.message_id)


async def _reap(member: Member) -> None:
    if not await member.process.wait(CHILDREN):
        member.process.kill()
        await member.process.wait(_EXIT_LIMIT)
    member.process.close()
