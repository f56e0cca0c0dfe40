"""Takes what children ask of the ledger, and lets none speak for a message that it does not run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from pydantic import ValidationError

from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent, ledger_message
from xml_pipeline.tracing.port import OFF, Tracing
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.ledger_client import LedgerClient
from xml_pipeline.worker.member import Member
from xml_pipeline.worker.metrics import WorkerMetrics
from xml_pipeline.worker.parking import parks
from xml_pipeline.worker.traces import parent_of_booking, released_call, settled_call
from xml_pipeline.worker.trail import OpenCall, Trail
from xml_pipeline.worker.wire import LedgerAnswer, LedgerAsk

log = structlog.get_logger(__name__)

# Far more calls than one process has under way: a child that asks for more is out of its mind, or not ours any more.
MOST_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class _Granted:
    request: HoldRequest
    reply: HoldReply
    expires_at: float
    trail: Trail


@dataclass(slots=True)
class _Calls:
    """The LLM calls of one child: those that wait for a hold, and the granted ones with what was granted."""

    asking: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    granted: dict[UUID, _Granted] = field(default_factory=dict)

    def has_room(self, now: float) -> bool:
        """Whether it may ask for one more. A call that was never settled is remembered until its room is needed."""
        if len(self.asking) + len(self.granted) >= MOST_CALLS:
            self.granted = {call_id: one for call_id, one in self.granted.items() if one.expires_at > now}
        return len(self.asking) + len(self.granted) < MOST_CALLS


class LedgerDesk:
    """One for a worker. The message of a call is the one that the child's run handles, whatever the child says."""

    def __init__(self, client: LedgerClient, metrics: WorkerMetrics, tracing: Tracing = OFF) -> None:
        self._client = client
        self._metrics = metrics
        self._tracing = tracing
        self._calls: dict[Member, _Calls] = {}

    def asked(self, member: Member, job: Job | None, ask: LedgerAsk) -> None:
        """A child asks. Each ask gets an answer, unless the child is gone by then."""
        calls = self._calls.setdefault(member, _Calls())
        try:
            message = ledger_message.validate_json(ask.body)
        except ValidationError:
            _answer(member, ask, error="not a ledger message")
            return
        match message:
            case HoldRequest():
                self._hold(member, calls, job, ask, message)
            case UsageEvent():
                self._settle(member, calls, ask, message)
            case HoldRelease():
                self._release(member, calls, ask, message)

    def has_granted(self, member: Member, call_id: UUID) -> bool:
        """Whether a child holds a grant that it has not settled."""
        return member in self._calls and call_id in self._calls[member].granted

    def left(self, member: Member) -> None:
        """A child is gone: what it was still asking for is given back; what was granted may have been used."""
        calls = self._calls.pop(member, _Calls())
        for call_id, task in calls.asking.items():
            task.cancel()
            self._client.release(call_id, _nothing)

    def _hold(self, member: Member, calls: _Calls, job: Job | None, ask: LedgerAsk, request: HoldRequest) -> None:
        if job is None:
            _answer(member, ask, error="the handler has ended")
        elif request.call_id in calls.asking:
            _answer(member, ask, error="this call is being asked for")
        elif not calls.has_room(asyncio.get_running_loop().time()):
            _answer(member, ask, error=f"{MOST_CALLS} calls are under way in this process")
        else:
            bound = request.model_copy(update={"message_id": job.assignment.message_id})
            task = asyncio.get_running_loop().create_task(self._ask(member, calls, job, ask, bound))
            calls.asking[request.call_id] = task

    async def _ask(self, member: Member, calls: _Calls, job: Job, ask: LedgerAsk, request: HoldRequest) -> None:
        reply = await self._client.hold(request, parent_of_booking(job.trail, request, self._tracing))
        calls.asking.pop(request.call_id, None)
        if parks(reply):
            job.parked_for = reply.asked
        if reply.state == "granted":
            expires_at = asyncio.get_running_loop().time() + request.lifetime
            calls.granted[request.call_id] = _Granted(request, reply, expires_at, job.trail)
            job.trail.calls[request.call_id] = OpenCall(request, time.time_ns())
        _answer(member, ask, body=reply.model_dump_json().encode())

    def _settle(self, member: Member, calls: _Calls, ask: LedgerAsk, event: UsageEvent) -> None:
        granted = calls.granted.pop(event.call_id, None)
        if granted is None:
            _answer(member, ask, error="no hold was granted for this call")
            return
        known = {"message_id": granted.request.message_id, "granted_at": granted.reply.granted_at}
        true = event.model_copy(update=known)
        self._metrics.call_answered(true.model, true.latency_ms)
        if granted.trail.calls.pop(event.call_id, None) is not None and self._tracing.on:
            self._tracing.tell([settled_call(granted.trail, granted.request, true, time.time_ns())])
        parent = parent_of_booking(granted.trail, granted.request, self._tracing)
        self._client.settle(true, _answering(member, ask), parent)

    def _release(self, member: Member, calls: _Calls, ask: LedgerAsk, release: HoldRelease) -> None:
        asking = calls.asking.pop(release.call_id, None)
        granted = calls.granted.pop(release.call_id, None)
        if asking is not None:
            asking.cancel()
        call = None if granted is None else granted.trail.calls.pop(release.call_id, None)
        if granted is not None and call is not None and self._tracing.on:
            self._tracing.tell([released_call(granted.trail, call.request, call.granted_ns, time.time_ns())])
        if asking is None and granted is None:
            _answer(member, ask)
            return
        self._client.release(release.call_id, _answering(member, ask))


def _answer(member: Member, ask: LedgerAsk, *, body: bytes = b"", error: str | None = None) -> None:
    if error is not None:
        log.warning("ledger_ask_refused", pid=member.process.pid, reason=error)
    member.process.send(LedgerAnswer(ask.ask, body, error))


def _answering(member: Member, ask: LedgerAsk) -> Callable[[], None]:
    return lambda: _answer(member, ask)


def _nothing() -> None:
    return None
