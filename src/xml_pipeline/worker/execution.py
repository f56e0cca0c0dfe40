"""Runs handlers in a child: with a time limit, and with every ending told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from xml_pipeline.envelope.model import Outcome, Output
from xml_pipeline.llm.context import HandlerContext, handler_context
from xml_pipeline.llm.model import Provider
from xml_pipeline.message_bus.messages import HoldReply
from xml_pipeline.organism.model import Listener, Organism
from xml_pipeline.tracing.ids import read_traceparent
from xml_pipeline.worker.child_ledger import LedgerAsks, RunLedger
from xml_pipeline.worker.handler_api import HandlerMetadata
from xml_pipeline.worker.payloads import Payloads, Replies, outputs_of
from xml_pipeline.worker.stepping import RunScope, Stepper
from xml_pipeline.worker.wire import Done, Run
from xml_pipeline.worker.words import describe

# What a handler gets to end after it was cancelled, in seconds.
CANCEL_GRACE = 1.0


@dataclass(slots=True, eq=False)
class _Running:
    work: Run
    scope: RunScope
    started: float
    task: asyncio.Task[tuple[Output, ...]] | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    verdict: tuple[Outcome, str] | None = None
    reported: bool = False


class Executor:
    """The runs of one child. `report` gets exactly one Done for each run."""

    def __init__(
        self,
        organism: Organism,
        provider: Provider,
        stepper: Stepper,
        asks: LedgerAsks,
        report: Callable[[Done], None],
    ) -> None:
        self._organism = organism
        self._provider = provider
        self._stepper = stepper
        self._asks = asks
        self._report = report
        self._payloads = Payloads(organism)
        self._running: dict[int, _Running] = {}

    def start(self, work: Run) -> None:
        """Begin a run."""
        listener = self._organism.listeners.get(work.listener)
        if listener is None:
            self._report(Done(work.run, Outcome.ERROR, reason=f"no listener {work.listener} in this organism"))
            return
        running = _Running(work, RunScope(work.run), time.perf_counter())
        self._running[work.run] = running
        running.task = self._stepper.start(running.scope, self._execute(listener, work))
        running.task.add_done_callback(lambda task: self._ended(running, task))
        self._later(running, work.timeout, lambda: self._time_is_up(running))

    def cancel(self, run: int) -> None:
        """Its thread was killed."""
        running = self._running.get(run)
        if running is not None:
            self._stop(running, Outcome.ERROR, "killed")

    async def _execute(self, listener: Listener, work: Run) -> tuple[Output, ...]:
        # In the run's own context: whatever is logged of it, by the handler too, says of what.
        structlog.contextvars.bind_contextvars(**_log_ids(work))
        payload = self._payloads.read(work.payload)
        with handler_context(self._context(listener, work)):
            result = await listener.handler(payload, self._metadata(listener, work))
        limits = self._organism.limits
        return outputs_of(
            result,
            listener.name,
            self._payloads,
            max_outputs=limits.max_outputs_per_turn,
            max_bytes=limits.max_envelope_bytes,
        )

    def _context(self, listener: Listener, work: Run) -> HandlerContext:
        return HandlerContext(
            ledger=RunLedger(self._asks, work.run, lambda denied: self._parked(work.run, denied)),
            provider=self._provider,
            llm=self._organism.llm,
            message_id=work.message_id,
            agent=listener.name,
            deadline=time.monotonic() + work.timeout,
            model=listener.model,
            prompt=listener.prompt,
        )

    def _metadata(self, listener: Listener, work: Run) -> HandlerMetadata:
        return HandlerMetadata(
            kind=work.kind,
            thread_id=work.thread,
            call=work.call,
            from_id=work.from_id,
            agent=listener.name,
            remaining=work.remaining,
            replies=Replies(work.replies, self._payloads.read),
            prompt=listener.prompt,
            attempt=work.attempt,
            timeout=work.timeout,
            traceparent=work.traceparent,
        )

    def _parked(self, run: int, denied: HoldReply) -> None:
        running = self._running.get(run)
        if running is not None:
            self._stop(running, Outcome.PARKED, denied.reason or "no budget covers the call")

    def _time_is_up(self, running: _Running) -> None:
        self._stop(running, Outcome.TIMEOUT, f"not done after {running.work.timeout:g} s")

    def _stop(self, running: _Running, outcome: Outcome, reason: str) -> None:
        if running.verdict is not None or running.task is None:
            return
        running.verdict = (outcome, reason)
        running.task.cancel(reason)
        self._later(running, CANCEL_GRACE, lambda: self._give_up(running))

    def _give_up(self, running: _Running) -> None:
        """It goes on although it was cancelled: tell so, and that this child is to be replaced."""
        if running.verdict is not None:
            self._tell(running, *running.verdict, stuck=True)

    def _later(self, running: _Running, seconds: float, action: Callable[[], None]) -> None:
        running.timers.append(asyncio.get_running_loop().call_later(seconds, action))

    def _ended(self, running: _Running, task: asyncio.Task[tuple[Output, ...]]) -> None:
        running.scope.cancel_leftovers()
        error = None if task.cancelled() else task.exception()
        if running.verdict is not None:
            self._tell(running, *running.verdict)
        elif task.cancelled():
            self._tell(running, Outcome.ERROR, "CancelledError: the handler cancelled itself")
        elif error is not None:
            self._tell(running, Outcome.ERROR, describe(error))
        else:
            self._tell(running, Outcome.OK, None, outputs=task.result())

    def _tell(
        self,
        running: _Running,
        outcome: Outcome,
        reason: str | None,
        *,
        outputs: tuple[Output, ...] = (),
        stuck: bool = False,
    ) -> None:
        for timer in running.timers:
            timer.cancel()
        if running.reported:
            return
        running.reported = True
        self._running.pop(running.work.run, None)
        duration = int((time.perf_counter() - running.started) * 1000)
        self._report(Done(running.work.run, outcome, outputs, reason, duration, stuck))


def _log_ids(work: Run) -> dict[str, object]:
    """A child does not know the thread; its trace is known by that and by this."""
    parent = read_traceparent(work.traceparent)
    trace = {} if parent is None else {"trace_id": f"{parent.trace_id:032x}"}
    return {"listener": work.listener, "message_id": str(work.message_id), "attempt": work.attempt, **trace}
