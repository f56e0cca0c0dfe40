"""What the proxy's filters let pass, however the bytes are cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.tools.proxy.amqp import AmqpFilter
from tests.chaos.tools.proxy.faults import CutCommits, PassThrough, SwallowConfirms
from tests.chaos.tools.proxy.postgres import EncryptedError, PostgresFilter
from tests.chaos.tools.proxy.traps import Traps
from xml_pipeline.message_bus.rabbit.frames import encode_acks, encode_nacks

cuts = st.lists(st.integers(0, 400), max_size=6)
other_frames = st.builds(
    lambda kind, payload: pack(">BHI", kind, 1, len(payload)) + payload + b"\xce",
    st.sampled_from([2, 3, 8]),
    st.binary(max_size=40),
) | st.just(pack(">BHIHH", 1, 1, 4, 60, 60) + b"\xce")
confirms = st.builds(lambda tag: encode_acks(1, [(tag, True)]), st.integers(1, 2**60)) | st.builds(
    lambda tag: encode_nacks(1, [(tag, False)], requeue=False), st.integers(1, 2**60)
)


@given(st.lists(other_frames | confirms, max_size=12), cuts)
def test_only_confirms_vanish(frames: list[bytes], cut: list[int]) -> None:
    traps = Traps()
    traps.set(SwallowConfirms(None, None))
    passed = _feed(AmqpFilter(traps).from_server, frames, cut)
    kept = [frame for frame in frames if not _is_confirm(frame)]
    assert passed == b"".join(kept)
    assert traps.stats.swallowed_confirms == len(frames) - len(kept)


@given(st.lists(other_frames | confirms, max_size=12), cuts)
def test_all_passes_without_a_fault(frames: list[bytes], cut: list[int]) -> None:
    assert _feed(AmqpFilter(Traps()).from_server, frames, cut) == b"".join(frames)


def test_a_fault_that_begins_inside_a_frame_finds_the_next_one() -> None:
    traps = Traps()
    amqp = AmqpFilter(traps)
    body = pack(">BHI", 3, 1, 30) + b"\x01" * 30 + b"\xce"
    first, _ = amqp.from_server(body[:20])
    traps.set(SwallowConfirms(None, None))
    rest, _ = amqp.from_server(body[20:] + encode_acks(1, [(1, False)]))
    assert first + rest == body
    assert traps.stats.swallowed_confirms == 1


def test_confirms_are_enough_at_their_count() -> None:
    traps = Traps()
    traps.set(SwallowConfirms(2, None))
    amqp = AmqpFilter(traps)
    amqp.from_server(encode_acks(1, [(1, False)]))
    assert not traps.enough_confirms
    amqp.from_server(encode_acks(1, [(2, False)]))
    assert traps.enough_confirms


@given(cuts)
def test_a_commit_that_is_dropped_never_passes(cut: list[int]) -> None:
    traps = Traps()
    traps.set(CutCommits(1, "before"))
    before = [STARTUP, _query("BEGIN;"), _query("insert into t values ('COMMIT')")]
    session = PostgresFilter(traps)
    assert _feed(session.from_client, [*before, _query("COMMIT;")], cut) == b"".join(before)
    assert traps.stats.dropped_commits == 1


@given(cuts, cuts)
def test_a_commit_passes_and_its_answer_does_not(cut: list[int], server_cut: list[int]) -> None:
    traps = Traps()
    session = PostgresFilter(traps)
    asked = [TLS_REQUEST, STARTUP, _query("BEGIN;"), _query("COMMIT;")]
    traps.set(CutCommits(1, "after"))
    assert _feed(session.from_client, asked, cut) == b"".join(asked)
    answer = [b"N", _message(b"A", b"a notice in between"), _message(b"C", b"COMMIT\0"), READY]
    assert _resets(session.from_server, answer, server_cut)
    assert traps.stats.swallowed_commits == 1


def test_every_third_commit_is_cut() -> None:
    traps = Traps()
    traps.set(CutCommits(3, "before"))
    assert [traps.fate_of_commit() for _ in range(7)] == ["pass", "pass", "before", "pass", "pass", "before", "pass"]
    traps.set(PassThrough())
    assert traps.fate_of_commit() == "pass"


@pytest.mark.parametrize("query", ["COMMIT", "commit;", "COMMIT WORK", "update t set a = 1; COMMIT", "  Commit ;"])
def test_this_is_a_commit(query: str) -> None:
    assert _cuts(_query(query))


@pytest.mark.parametrize(
    "query", ["ROLLBACK;", "COMMIT PREPARED 'x'", "select 'COMMIT'", "insert into committed", "BEGIN"]
)
def test_this_is_no_commit(query: str) -> None:
    assert not _cuts(_query(query))


def test_a_prepared_commit_counts_when_it_is_executed() -> None:
    traps = Traps()
    traps.set(CutCommits(1, "before"))
    session = PostgresFilter(traps)
    session.from_client(STARTUP)
    prepare = _message(b"P", b"s1\0COMMIT\0\0\0") + _message(b"B", b"p1\0s1\0\0\0\0\0\0\0")
    assert session.from_client(prepare) == (prepare, False)
    assert session.from_client(_message(b"E", b"p1\0\0\0\0\0")) == (b"", True)


def test_a_server_that_encrypts_is_an_error() -> None:
    session = PostgresFilter(Traps())
    session.from_client(TLS_REQUEST)
    with pytest.raises(EncryptedError):
        session.from_server(b"S")


def _cuts(message: bytes) -> bool:
    traps = Traps()
    traps.set(CutCommits(1, "before"))
    session = PostgresFilter(traps)
    session.from_client(STARTUP)
    return session.from_client(message) == (b"", True)


def _feed(stream: Callable[[bytes], tuple[bytes, bool]], parts: Sequence[bytes], cut: Iterable[int]) -> bytes:
    """What passes until the stream is reset."""
    passed = b""
    for piece in _pieces(b"".join(parts), cut):
        more, over = stream(piece)
        passed += more
        if over:
            break
    return passed


def _resets(stream: Callable[[bytes], tuple[bytes, bool]], parts: Sequence[bytes], cut: Iterable[int]) -> bool:
    return any(stream(piece)[1] for piece in _pieces(b"".join(parts), cut))


def _pieces(data: bytes, cut: Iterable[int]) -> list[bytes]:
    ends = [0, *sorted(place for place in cut if place < len(data)), len(data)]
    return [data[start:stop] for start, stop in pairwise(ends)]


def _is_confirm(frame: bytes) -> bool:
    return frame[:1] == b"\x01" and frame[7:11] in (pack(">HH", 60, 80), pack(">HH", 60, 120))


def _message(kind: bytes, payload: bytes) -> bytes:
    return kind + pack(">I", len(payload) + 4) + payload


def _query(text: str) -> bytes:
    return _message(b"Q", text.encode() + b"\0")


TLS_REQUEST = pack(">II", 8, 80877103)
STARTUP = pack(">II", 23, 196608) + b"user\0postgres\0\0"
READY = _message(b"Z", b"I")
