"""Ids of traces and spans, made from the ids that threads, messages and calls have already.

Whoever does something again, or does it elsewhere, comes to the same ids: nothing about a trace has to be stored, and a
span that is told twice is one span. They are hashes: a trace id says nothing of its thread's id, and its bits are as
evenly spread as samplers by ratio need them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from uuid import UUID

HEADER: Final = "traceparent"
# When it was sent, in nanoseconds since 1970: so that the time in the queue has a beginning.
SENT_HEADER: Final = "sent-ns"
_SPAN_BYTES = 8
_TRACE_BYTES = 16
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span as W3C Trace Context names it; `sampled`: whoever made it records it."""

    trace_id: int
    span_id: int
    sampled: bool


def trace_of(thread_id: UUID) -> int:
    """The one trace of a thread."""
    return _hash(b"trace", thread_id.bytes, _TRACE_BYTES)


def trace_text(thread_id: UUID) -> str:
    """The id of a thread's trace as logs and viewers write it."""
    return f"{trace_of(thread_id):032x}"


def thread_span(thread_id: UUID) -> int:
    """The root of a thread's trace."""
    return _hash(b"thread", thread_id.bytes)


def inject_span(message_id: UUID) -> int:
    """Of a message that came from outside: its acceptance."""
    return _hash(b"inject", message_id.bytes)


def message_span(message_id: UUID) -> int:
    """A message: from what caused it until it is recorded."""
    return _hash(b"message", message_id.bytes)


def attempt_span(message_id: UUID, attempt: int) -> int:
    """One attempt to handle a message, the first being 1."""
    return _hash(b"attempt", message_id.bytes + attempt.to_bytes(8, "big"))


def wait_span(attempt: int) -> int:
    """The time that a message waited before the attempt of this span."""
    return _hash(b"wait", attempt.to_bytes(_SPAN_BYTES, "big"))


def call_span(call_id: UUID) -> int:
    """One LLM call."""
    return _hash(b"call", call_id.bytes)


def booking_span(call_id: UUID, kind: str) -> int:
    """The booking of a call; what expired and is corrected later is booked once more, as another kind."""
    return _hash(b"booking", call_id.bytes + kind.encode())


def write_traceparent(trace_id: int, span_id: int, *, sampled: bool) -> str:
    """The header."""
    return f"00-{trace_id:032x}-{span_id:016x}-{'01' if sampled else '00'}"


def read_traceparent(text: object) -> TraceParent | None:
    """What a header says; None for one that is to be ignored, as W3C has it."""
    match = _TRACEPARENT.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    return TraceParent(trace_id, span_id, bool(int(match[4], 16) & 1)) if trace_id and span_id else None


def _hash(kind: bytes, data: bytes, size: int = _SPAN_BYTES) -> int:
    # Zero is no id.
    return int.from_bytes(blake2b(data, digest_size=size, person=kind).digest(), "big") or 1
