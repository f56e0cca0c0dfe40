"""What one committed transaction booked, as spans: one for each booking, under the LLM call that it is of."""

from __future__ import annotations

from collections.abc import Iterator

from xml_pipeline.ledger.model import Changes
from xml_pipeline.storage.ledger_rows import Booking
from xml_pipeline.tracing.ids import booking_span, call_span, trace_of
from xml_pipeline.tracing.port import Attribute, Span, SpanKind


def booking_spans(changes: Changes, start_ns: int, end_ns: int) -> Iterator[Span]:
    """The bookings of a batch that was booked between these times."""
    for booking in (*changes.settled, *changes.booked.values(), *changes.corrected.values()):
        yield Span(
            name=f"book {booking.model}",
            kind=SpanKind.CONSUMER,
            trace_id=trace_of(booking.thread_id),
            span_id=booking_span(booking.call_id, booking.kind.value),
            parent_id=call_span(booking.call_id),
            start_ns=start_ns,
            end_ns=end_ns,
            attributes=_attributes(booking),
        )


def _attributes(booking: Booking) -> dict[str, Attribute]:
    return {
        "messaging.operation.name": "book",
        "messaging.operation.type": "process",
        "messaging.message.conversation_id": str(booking.thread_id),
        "gen_ai.provider.name": booking.provider,
        "gen_ai.request.model": booking.model,
        "gen_ai.usage.input_tokens": booking.tokens.prompt_tokens,
        "gen_ai.usage.output_tokens": booking.tokens.completion_tokens,
        "organism.agent": booking.agent_id,
        "organism.call.id": str(booking.call_id),
        "organism.booking.kind": booking.kind.value,
        "organism.cost.usd": float(booking.cost),
    }
