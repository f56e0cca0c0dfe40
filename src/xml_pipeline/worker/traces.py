"""What a worker did, as spans: the wait and the run of an attempt, and the LLM calls under it. Never what was said."""

from __future__ import annotations

from collections.abc import Iterator

from xml_pipeline.envelope.model import Assignment, Outcome
from xml_pipeline.message_bus.messages import HoldRequest, UsageEvent
from xml_pipeline.tracing.ids import attempt_span, call_span, message_span, wait_span, write_traceparent
from xml_pipeline.tracing.port import Attribute, Link, Span, SpanKind, Tracing
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.trail import Trail
from xml_pipeline.worker.wire import Done

_MILLISECOND = 1_000_000


def attempt_spans(job: Job, done: Done, now_ns: int) -> Iterator[Span]:
    """An attempt that has ended now: how long it waited, what its handler did, and the calls that it left open."""
    trail, assignment = job.trail, job.assignment
    started = trail.started_ns or now_ns
    parent = message_span(assignment.message_id)
    attributes = _attributes(assignment)
    if trail.sent_ns:
        yield Span(
            name=f"wait {job.listener}",
            kind=SpanKind.CONSUMER,
            trace_id=trail.trace_id,
            span_id=wait_span(trail.span_id),
            parent_id=parent,
            start_ns=min(trail.sent_ns, started),  # by the router's clock
            end_ns=started,
            attributes=attributes | {"messaging.operation.name": "wait", "messaging.operation.type": "receive"},
        )
    for call_id, call in trail.calls.items():
        yield _call(trail, call.request, call_span(call_id), call.granted_ns, now_ns, error="unsettled")
    yield Span(
        name=f"handle {job.listener}",
        kind=SpanKind.CONSUMER,
        trace_id=trail.trace_id,
        span_id=trail.span_id,
        parent_id=parent,
        start_ns=started,
        end_ns=now_ns,
        attributes=attributes
        | {
            "messaging.operation.name": "handle",
            "messaging.operation.type": "process",
            "organism.outcome": done.outcome.value,
            "organism.redelivered": trail.redelivered,
        },
        links=_earlier(trail, assignment),
        error=done.outcome.value if done.outcome in (Outcome.ERROR, Outcome.TIMEOUT) else None,
    )


def settled_call(trail: Trail, request: HoldRequest, event: UsageEvent, now_ns: int) -> Span:
    """A call that was answered, and took as long as the event says."""
    usage = {
        "gen_ai.usage.input_tokens": event.prompt_tokens,
        "gen_ai.usage.output_tokens": event.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": event.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": event.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": event.reasoning_tokens,
    }
    told = {name: count for name, count in usage.items() if count is not None}
    start = now_ns - int(event.latency_ms * _MILLISECOND)
    return _call(trail, request, call_span(event.call_id), start, now_ns, told)


def released_call(trail: Trail, request: HoldRequest, granted_ns: int, now_ns: int) -> Span:
    """A call that the provider did not take."""
    return _call(trail, request, call_span(request.call_id), granted_ns, now_ns, error="released")


def parent_of_booking(trail: Trail, request: HoldRequest, tracing: Tracing) -> str:
    """The `traceparent` of what is told to the ledger of a call."""
    sampled = tracing.sampled(trail.trace_id)
    return write_traceparent(trail.trace_id, call_span(request.call_id), sampled=sampled)


def _call(
    trail: Trail,
    request: HoldRequest,
    span_id: int,
    start_ns: int,
    end_ns: int,
    usage: dict[str, int] | None = None,
    error: str | None = None,
) -> Span:
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": request.provider,
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_completion,
        "organism.call.id": str(request.call_id),
        **(usage or {}),
    }
    about = (trail.trace_id, span_id, trail.span_id)
    return Span(f"chat {request.model}", SpanKind.CLIENT, *about, start_ns, end_ns, attributes, error=error)


def _earlier(trail: Trail, assignment: Assignment) -> tuple[Link, ...]:
    """What was run of the message before: the same attempt by somebody else, or the attempt that failed."""
    if trail.redelivered:
        return (Link(trail.trace_id, attempt_span(assignment.message_id, assignment.attempt)),)
    if assignment.attempt > 1:
        return (Link(trail.trace_id, attempt_span(assignment.message_id, assignment.attempt - 1)),)
    return ()


def _attributes(assignment: Assignment) -> dict[str, Attribute]:
    return {
        "messaging.destination.name": assignment.envelope.to_id,
        "messaging.message.id": str(assignment.message_id),
        "messaging.message.conversation_id": str(assignment.envelope.thread_id),
        "organism.attempt": assignment.attempt,
        "organism.kind": assignment.kind.value,
    }
