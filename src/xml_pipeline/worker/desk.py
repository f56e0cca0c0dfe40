"""The worker's desk: assignments come in, turns go out, and a delivery is acked when its turn is confirmed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import structlog

from xml_pipeline.envelope.codec import MAX_TURN_BYTES, decode_assignment, encode_turn
from xml_pipeline.envelope.model import Outcome, Turn
from xml_pipeline.errors import InvalidXml
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import rest
from xml_pipeline.logs import log_ids
from xml_pipeline.message_bus.port import Consumer, Incoming, Outgoing
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.tracing.ids import HEADER
from xml_pipeline.tracing.port import OFF, Tracing
from xml_pipeline.worker.jobs import Delivery, Job, Jobs
from xml_pipeline.worker.ledger_desk import LedgerDesk
from xml_pipeline.worker.member import Member
from xml_pipeline.worker.metrics import WorkerMetrics
from xml_pipeline.worker.outbox import Outbox
from xml_pipeline.worker.pool import Pool, Source
from xml_pipeline.worker.settings import WorkerSettings
from xml_pipeline.worker.traces import attempt_spans
from xml_pipeline.worker.trail import trail_of
from xml_pipeline.worker.wire import Done, LedgerAsk

log = structlog.get_logger(__name__)


class Desk:
    """Owns the pool, and is told what comes of it."""

    def __init__(
        self,
        names: Names,
        source: Source,
        settings: WorkerSettings,
        outbox: Outbox,
        ledger: LedgerDesk,
        on_version: Callable[[int], None],
        metrics: WorkerMetrics,
        tracing: Tracing = OFF,
    ) -> None:
        self._names = names
        self._outbox = outbox
        self._ledger = ledger
        self._on_version = on_version
        self._metrics = metrics
        self._tracing = tracing
        self._jobs = Jobs()
        self._to_ack: list[Delivery] = []
        self._ack_wanted = asyncio.Event()
        self._acking: list[Delivery] = []
        self.pool = Pool(source, settings, self)

    def accept(self, listener: str, consumer: Consumer, incoming: Incoming) -> bool:
        """Take a delivery; False where it is no assignment."""
        try:
            assignment = decode_assignment(incoming.body)
        except InvalidXml as error:
            log.warning("assignment_not_understood", listener=listener, error=str(error))
            return False
        job = self._jobs.take(listener, assignment, Delivery(listener, consumer, incoming))
        if job is not None:
            self._begin(job, incoming)
        self._on_version(assignment.config_version)
        return True

    def kill(self, thread: UUID) -> None:
        """Cancel what runs of a thread."""
        for job in self._jobs.of_thread(thread):
            self.pool.cancel(job)

    @property
    def idle(self) -> bool:
        """Whether all turns are confirmed and acked, and all else is published, too."""
        return not (len(self._jobs) or self._to_ack or self._acking) and self._outbox.empty

    @property
    def busy_listeners(self) -> frozenset[str]:
        """The listeners with deliveries that are not acked."""
        unacked = (delivery.listener for delivery in (*self._to_ack, *self._acking))
        return self._jobs.listeners.union(unacked)

    def listeners_in_hand(self) -> Iterator[str]:
        """The listener of each job in hand."""
        return self._jobs.each_listener()

    async def run_acks(self) -> None:
        """Ack in batches, until cancelled."""
        while True:
            await rest(self._ack_wanted.wait())
            self._ack_wanted.clear()
            await self.ack_confirmed()

    async def ack_confirmed(self) -> None:
        """Ack what is to be acked now."""
        if not self._to_ack:
            return
        self._acking, self._to_ack = self._to_ack, []
        failpoint("worker.before-ack")
        await _ack(self._acking)
        self._acking = []

    async def give_back_waiting(self) -> None:
        """Give back to the broker what no child runs, and start no children for it."""
        for job in self.pool.take_waiting():
            self._jobs.drop(job)
            for delivery in job.deliveries:
                await delivery.consumer.reject([delivery.incoming], requeue=True)

    # Of the pool

    def finished(self, job: Job, done: Done) -> None:
        """Publish the turn."""
        job.finished = True
        told = _as_told(job, done)
        if told.outcome is not Outcome.OK:
            _log_ended(job, told)
        self._metrics.finished(job, told.outcome, time.monotonic())
        if self._tracing.on:
            self._tracing.tell(attempt_spans(job, told, time.time_ns()))
        job.trail.calls.clear()
        self._publish(job, self._turn(job, told))

    def asked(self, member: Member, job: Job | None, ask: LedgerAsk) -> None:
        """Pass it on."""
        self._ledger.asked(member, job, ask)

    def left(self, member: Member, *, expected: bool) -> None:
        """Pass it on."""
        if not expected:
            self._metrics.child_died()
        self._ledger.left(member)

    def _begin(self, job: Job, incoming: Incoming) -> None:
        known = self._jobs.turn_of(job)
        if known is None:
            job.trail = trail_of(job.assignment, incoming, self._tracing)
            self.pool.submit(job)
        else:
            job.finished = True
            self._publish(job, known)

    def _publish(self, job: Job, turn: Outgoing) -> None:
        self._outbox.post(turn, lambda: self._confirmed(job, turn))

    def _confirmed(self, job: Job, turn: Outgoing) -> None:
        self._jobs.published(job, turn)
        self._to_ack.extend(job.deliveries)
        self._ack_wanted.set()

    def _turn(self, job: Job, done: Done) -> Outgoing:
        return Outgoing(
            self._names.ingress_door, self._names.ingress, turn_body(job, done), {HEADER: job.trail.traceparent}
        )


def turn_body(job: Job, done: Done) -> bytes:
    """The turn as it is published. One that no broker carries is an error: it would be tried for ever."""
    body = encode_turn(_turn_of(job, done))
    if len(body) <= MAX_TURN_BYTES:
        return body
    # A child that keeps to our own rules returns none of these.
    reason = f"its turn has {len(body)} bytes; at most {MAX_TURN_BYTES} are allowed"
    return encode_turn(_turn_of(job, Done(done.run, Outcome.ERROR, reason=reason, duration_ms=done.duration_ms)))


def _as_told(job: Job, done: Done) -> Done:
    """Only the ledger's word parks a message: it costs no attempt, so a child must not do it as it likes."""
    if done.outcome is not Outcome.PARKED or job.parked_for:
        return done
    return replace(done, outcome=Outcome.ERROR, reason="parked, though the ledger has denied it nothing")


def _turn_of(job: Job, done: Done) -> Turn:
    return Turn(
        id=uuid4(),
        message_id=job.assignment.message_id,
        attempt=job.assignment.attempt,
        outcome=done.outcome,
        outputs=done.outputs if done.outcome is Outcome.OK else (),
        reason=done.reason,
        duration_ms=done.duration_ms,
        asked=job.parked_for if done.outcome is Outcome.PARKED else 0,
    )


def _log_ended(job: Job, done: Done) -> None:
    """Never the reason: it may quote a payload. It is in the turn, and in the dead letter."""
    ids = log_ids(job.assignment.envelope.thread_id, job.assignment.message_id)
    log.warning("turn_not_ok", listener=job.listener, outcome=done.outcome.value, attempt=job.assignment.attempt, **ids)


async def _ack(deliveries: list[Delivery]) -> None:
    by_consumer: dict[int, list[Delivery]] = {}
    for delivery in deliveries:
        by_consumer.setdefault(id(delivery.consumer), []).append(delivery)
    for group in by_consumer.values():
        await group[0].consumer.ack([delivery.incoming for delivery in group])
