"""What one committed transaction did, as spans: one for each message that it recorded, under what caused it."""

from __future__ import annotations

from collections.abc import Iterator

from xml_pipeline.routing.items import Inject, Item, Orphaned, Overdue, TurnReport
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.storage.routing_rows import NewMessage, Released
from xml_pipeline.tracing.ids import (
    attempt_span,
    inject_span,
    message_span,
    read_traceparent,
    thread_span,
    trace_of,
    write_traceparent,
)
from xml_pipeline.tracing.port import Attribute, Link, Span, SpanKind, Tracing


def route_spans(routed: Routed, start_ns: int, end_ns: int) -> Iterator[Span]:
    """The messages of a batch that was taken, validated, authorised and recorded between these times."""
    for message in routed.decision.changes.inserts:
        trace_id = trace_of(message.thread_id)
        yield Span(
            name=f"route {message.to_id}",
            kind=SpanKind.PRODUCER,
            trace_id=trace_id,
            span_id=message_span(message.id),
            parent_id=_cause(routed.decision.causes.get(message.id), message, trace_id),
            start_ns=start_ns,
            end_ns=end_ns,
            attributes=_attributes(message),
            links=() if message.redrive_of is None else (Link(trace_id, message_span(message.redrive_of)),),
            error=message.outcome if message.outcome in ("failed", "killed") else None,
        )


def parent_of(message: Released, tracing: Tracing) -> str:
    """The `traceparent` of an assignment: the message's own span."""
    trace_id = trace_of(message.thread_id)
    return write_traceparent(trace_id, message_span(message.id), sampled=tracing.sampled(trace_id))


def _cause(item: Item | None, message: NewMessage, trace_id: int) -> int:
    match item:
        case Inject():
            return inject_span(item.message_id)
        case TurnReport():
            return _reported_span(item, trace_id)
        case Overdue() | Orphaned():
            return message_span(item.message_id)
        case _:
            return thread_span(message.thread_id)


def _reported_span(item: TurnReport, trace_id: int) -> int:
    """What the worker says of its span is believed only within the trace that the database knows it belongs to."""
    told = read_traceparent(item.traceparent)
    if told is not None and told.trace_id == trace_id:
        return told.span_id
    return attempt_span(item.turn.message_id, item.turn.attempt)


def _attributes(message: NewMessage) -> dict[str, Attribute]:
    return {
        "messaging.operation.name": "route",
        "messaging.operation.type": "send",
        "messaging.destination.name": message.to_id,
        "messaging.message.id": str(message.id),
        "messaging.message.conversation_id": str(message.thread_id),
        "messaging.message.body.size": len(message.body),
        "organism.from": message.from_id,
        "organism.kind": message.kind,
        "organism.slot_index": message.slot - 1,
        "organism.hop": message.hop,
    }
