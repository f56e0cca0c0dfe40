"""Where a job is in the trace of its thread."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from uuid import UUID

from xml_pipeline.envelope.model import Assignment
from xml_pipeline.message_bus.messages import HoldRequest
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.tracing.ids import SENT_HEADER, attempt_span, trace_of, write_traceparent
from xml_pipeline.tracing.port import Tracing


@dataclass(frozen=True, slots=True)
class OpenCall:
    """An LLM call under way, since `granted_ns`."""

    request: HoldRequest
    granted_ns: int


@dataclass(slots=True)
class Trail:
    """The span of one run of an attempt. Times are nanoseconds since 1970, 0 where not known.

    `redelivered`: the broker had given the attempt to somebody before, who may have run it. `started_ns`: when a child
    got it. `calls`: its LLM calls that are under way.
    """

    trace_id: int = 0
    span_id: int = 0
    traceparent: str = ""
    redelivered: bool = False
    sent_ns: int = 0
    started_ns: int = 0
    calls: dict[UUID, OpenCall] = field(default_factory=dict)


def trail_of(assignment: Assignment, incoming: Incoming, tracing: Tracing) -> Trail:
    """The span of an attempt has an id that all know. One that is redelivered has its own: it may be a second run."""
    trace_id = trace_of(assignment.envelope.thread_id)
    span_id = attempt_span(assignment.message_id, assignment.attempt)
    if incoming.redelivered:
        span_id = secrets.randbits(64) or 1
    sent = incoming.headers.get(SENT_HEADER)
    return Trail(
        trace_id,
        span_id,
        write_traceparent(trace_id, span_id, sampled=tracing.sampled(trace_id)),
        incoming.redelivered,
        sent if isinstance(sent, int) else 0,
    )
