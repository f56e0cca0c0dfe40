"""What a worker has in hand: assignments that run, and turns that wait for their confirm."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from xml_pipeline.envelope.model import Assignment
from xml_pipeline.message_bus.port import Consumer, Incoming, Outgoing
from xml_pipeline.worker.trail import Trail

JobKey = tuple[UUID, int]

_MOST_REMEMBERED = 2000
_MOST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery to a listener, and who can ack it."""

    listener: str
    consumer: Consumer
    incoming: Incoming


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one message. All its deliveries are acked when its turn is confirmed.

    `parked_for`: the tokens of a call that the ledger denied it so that it is to wait, 0 if none. `began_at`: when a
    child was given it last, `waited`: seconds until one was for the first time; by the monotonic clock.
    """

    listener: str
    assignment: Assignment
    deliveries: list[Delivery] = field(default_factory=list)
    deaths: int = 0
    finished: bool = False
    killed: bool = False
    parked_for: int = 0
    accepted_at: float = field(default_factory=time.monotonic)
    began_at: float | None = None
    waited: float = 0.0
    trail: Trail = field(default_factory=Trail)

    def begins(self) -> None:
        """A child is given it."""
        now = time.monotonic()
        if self.began_at is None:
            self.waited = now - self.accepted_at
        self.began_at = now
        self.trail.started_ns = time.time_ns()

    @property
    def key(self) -> JobKey:
        """The message and the attempt."""
        return self.assignment.message_id, self.assignment.attempt


def opaque(listener: str, secret: UUID) -> str:
    """A stable name for an id that a listener may not know: of no use to another one, and not to be turned back."""
    return hashlib.blake2b(secret.bytes, key=listener.encode()[:64], digest_size=12).hexdigest()


class Jobs:
    """The jobs in hand, and the turns that were published lately.

    A delivery of a message and attempt that is in hand, or whose turn is known, starts nothing: it joins.
    """

    def __init__(self) -> None:
        self._open: dict[JobKey, Job] = {}
        self._turns: OrderedDict[JobKey, Outgoing] = OrderedDict()
        self._bytes = 0

    def take(self, listener: str, assignment: Assignment, delivery: Delivery) -> Job | None:
        """A new job for this delivery, None if it has joined one in hand."""
        key = (assignment.message_id, assignment.attempt)
        known = self._open.get(key)
        if known is not None:
            known.deliveries.append(delivery)
            return None
        job = self._open[key] = Job(listener, assignment, [delivery])
        return job

    def turn_of(self, job: Job) -> Outgoing | None:
        """The turn that was published lately for this message and attempt."""
        return self._turns.get(job.key)

    def published(self, job: Job, turn: Outgoing) -> None:
        """Its turn was confirmed: nothing is left to do but ack."""
        self._open.pop(job.key, None)
        self._forget(job.key)
        self._turns[job.key] = turn
        self._bytes += len(turn.body)
        while len(self._turns) > _MOST_REMEMBERED or self._bytes > _MOST_BYTES:
            self._forget(next(iter(self._turns)))

    def drop(self, job: Job) -> None:
        """Somebody else will do it."""
        self._open.pop(job.key, None)

    def _forget(self, key: JobKey) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None:
            self._bytes -= len(turn.body)

    def of_thread(self, thread: UUID) -> list[Job]:
        """The jobs of a thread that have not finished."""
        return [job for job in self._open.values() if job.assignment.envelope.thread_id == thread and not job.finished]

    @property
    def listeners(self) -> frozenset[str]:
        """The listeners that have something in hand."""
        return frozenset(job.listener for job in self._open.values())

    def each_listener(self) -> Iterator[str]:
        """The listener of each job in hand."""
        return (job.listener for job in self._open.values())

    def __len__(self) -> int:
        return len(self._open)
