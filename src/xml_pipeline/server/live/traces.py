"""What a gateway accepted, as spans: the thread that begins, the message from outside, the request of a client."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from uuid import UUID

from xml_pipeline.tracing.ids import (
    TraceParent,
    inject_span,
    message_span,
    read_traceparent,
    thread_span,
    trace_of,
    write_traceparent,
)
from xml_pipeline.tracing.port import Attribute, Link, Span, SpanKind, Tracing


def parent_of_envelope(thread_id: UUID, message_id: UUID, tracing: Tracing) -> str:
    """The `traceparent` of what is accepted from outside."""
    trace_id = trace_of(thread_id)
    return write_traceparent(trace_id, inject_span(message_id), sampled=tracing.sampled(trace_id))


def accepted_spans(
    what: str,
    thread_id: UUID,
    message_id: UUID,
    to: str,
    times_ns: tuple[int, int],
    *,
    begins: bool = False,
    client: str | None = None,
    redrive_of: UUID | None = None,
) -> Iterator[Span]:
    """`what` (`inject`, `redrive`) was accepted between these times; `begins`: its thread began with it.

    A client that has a trace of its own sees the request there, and both traces link to each other: one client may
    inject into many threads, and many clients into one.
    """
    start_ns, end_ns = times_ns
    trace_id = trace_of(thread_id)
    about: dict[str, Attribute] = {"messaging.message.conversation_id": str(thread_id)}
    if begins:
        root = (trace_id, thread_span(thread_id), None, start_ns, end_ns)
        yield Span("thread", SpanKind.INTERNAL, *root, about)
    about |= {
        "messaging.operation.name": what,
        "messaging.operation.type": "create",
        "messaging.destination.name": to,
        "messaging.message.id": str(message_id),
    }
    links = [] if redrive_of is None else [Link(trace_id, message_span(redrive_of))]
    caller = read_traceparent(client)
    if caller is not None:
        request = _request(what, caller, Link(trace_id, inject_span(message_id)), times_ns, about)
        links.append(Link(request.trace_id, request.span_id))
        yield request
    here = (trace_id, inject_span(message_id), thread_span(thread_id), start_ns, end_ns)
    yield Span(f"{what} {to}", SpanKind.PRODUCER, *here, about, tuple(links))


def _request(
    what: str, caller: TraceParent, made: Link, times_ns: tuple[int, int], about: dict[str, Attribute]
) -> Span:
    here = (caller.trace_id, secrets.randbits(64) or 1, caller.span_id, *times_ns)
    return Span(f"POST {what}", SpanKind.SERVER, *here, dict(about), (made,), sampled=caller.sampled)
