from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.envelope.model import Kind, Outcome, Output
from xml_pipeline.worker.frames import BadFrame, Frame, FrameReader, encode_frame
from xml_pipeline.worker.wire import (
    Cancel,
    Done,
    Failed,
    FromChild,
    LedgerAnswer,
    LedgerAsk,
    Ping,
    Ready,
    Run,
    Start,
    ToChild,
    from_child,
    from_parent,
    to_child,
    to_parent,
)

RUN = Run(1, uuid4(), "a", Kind.RESPONSE, "b", "t", "c", 2, 1.5, 3, b"<a/>", (b"<b/>", b"<c/>"), "00-a-b-01")
OUTPUTS = (
    Output(Kind.REQUEST, "b", b"<b.x>\xc3\xa4</b.x>"),
    Output(Kind.RESPONSE, None, b"<a.y></a.y>"),
    Output(Kind.RESPONSE, None, None, "no XML"),
)


def _through(frame: Frame) -> Frame:
    [read] = FrameReader().feed(encode_frame(frame))
    return read


@pytest.mark.parametrize("message", [RUN, Start("text ä", "/x"), Cancel(4), Ping(1), LedgerAnswer(1, b"{}", None)])
def test_what_a_parent_says_is_read_as_it_was(message: ToChild) -> None:
    assert from_parent(_through(to_child(message))) == message


@pytest.mark.parametrize(
    "message",
    [
        Done(1, Outcome.OK, OUTPUTS, None, 12),
        Done(2, Outcome.TIMEOUT, (), "too slow", 3, stuck=True),
        Ready(("a", "b"), 20),
        Failed("why"),
        LedgerAsk(1, 2, b"{}"),
        Ping(0),
    ],
)
def test_what_a_child_says_is_read_as_it_was(message: FromChild) -> None:
    assert from_child(_through(to_parent(message))) == message


@given(st.lists(st.lists(st.binary(max_size=50), max_size=3), max_size=5), st.integers(1, 30))
def test_frames_are_cut_wherever_the_stream_is(contents: list[list[bytes]], size: int) -> None:
    frames = [Frame({"type": "x", "n": n}, tuple(blobs)) for n, blobs in enumerate(contents)]
    stream = b"".join(map(encode_frame, frames))
    reader = FrameReader()
    read = [frame for start in range(0, len(stream), size) for frame in reader.feed(stream[start : start + size])]
    assert read == frames


@given(st.binary(min_size=8, max_size=200))
def test_noise_is_refused_or_awaits_more(noise: bytes) -> None:
    try:
        frames = FrameReader().feed(noise)
    except BadFrame:
        return
    assert len(frames) <= len(noise) // 8


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)
_TYPES = st.sampled_from(["done", "ready", "failed", "ledger", "ping", "what"])
_FIELDS = st.sampled_from(
    ["run", "outcome", "reason", "ms", "stuck", "outputs", "ask", "number", "listeners", "concurrency"]
)


@given(_TYPES, st.dictionaries(_FIELDS, _JSON), st.lists(st.binary(max_size=20), max_size=3))
def test_whatever_a_child_says_is_understood_or_refused(
    kind: str, fields: dict[str, object], blobs: list[bytes]
) -> None:
    try:
        from_child(Frame({**fields, "type": kind}, tuple(blobs)))
    except BadFrame:
        return


@pytest.mark.parametrize("payload", [b"", b"no", b"<", b"<>", b"a<b>"])
def test_a_payload_that_is_no_xml_is_refused(payload: bytes) -> None:
    header = {"type": "done", "run": 1, "outcome": "ok", "ms": 1, "outputs": [["response", None, None]]}
    with pytest.raises(BadFrame):
        from_child(Frame(dict(header), (payload,)))
