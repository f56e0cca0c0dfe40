"""Ids of traces and spans: the same for everybody, different from one another, and headers as W3C has them."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from xml_pipeline.tracing import ids

THREAD = UUID("5b0a6d5e-8f5d-4a0c-9d5e-0d9b4c3f7a11")
GOLDEN = {
    "trace": "5b5362fee9c45bc9879bd6e29e77af70",
    "message": "150c4fbbc70f6245",
    "attempt": "be00d03ebb3c8b11",
}
SPAN = 0x00F067AA0BA902B7
TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736


def test_ids_are_made_of_what_is_known_and_stay_as_they_are() -> None:
    # Services of two versions may tell of one thread: a change of these numbers takes its trace apart.
    assert ids.trace_text(THREAD) == f"{ids.trace_of(THREAD):032x}" == GOLDEN["trace"]
    assert f"{ids.message_span(THREAD):016x}" == GOLDEN["message"]
    assert f"{ids.attempt_span(THREAD, 2):016x}" == GOLDEN["attempt"]


def test_no_two_things_have_one_id() -> None:
    a, b = uuid4(), uuid4()
    spans = [
        make(id_) for id_ in (a, b) for make in (ids.thread_span, ids.inject_span, ids.message_span, ids.call_span)
    ]
    spans += [ids.attempt_span(id_, attempt) for id_ in (a, b) for attempt in (1, 2, 3)]
    spans += [ids.wait_span(ids.attempt_span(a, 1)), ids.booking_span(a, "measured"), ids.booking_span(a, "expired")]
    assert len(set(spans)) == len(spans)
    assert all(0 < span < 2**64 for span in spans)


def test_a_trace_id_is_spread_evenly_where_samplers_look() -> None:
    """They compare its low half with a bound: a UUID has two fixed bits there."""
    low = [ids.trace_of(UUID(int=number)) % 2**64 < 2**62 for number in range(4000)]
    assert 800 < sum(low) < 1200


def test_a_header_is_read_as_it_was_written() -> None:
    text = ids.write_traceparent(TRACE, SPAN, sampled=True)
    assert text == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    assert ids.read_traceparent(text) == ids.TraceParent(TRACE, SPAN, sampled=True)
    assert ids.read_traceparent(text[:-2] + "00") == ids.TraceParent(TRACE, SPAN, sampled=False)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n",
    ],
)
def test_what_is_no_header_is_ignored(text: object) -> None:
    assert ids.read_traceparent(text) is None


def test_a_later_version_may_say_more() -> None:
    later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings"
    assert ids.read_traceparent(later) == ids.TraceParent(TRACE, SPAN, sampled=True)
