"""What is written is canonical and is read back the same; what is read is validated."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.envelope.codec import (
    canonical,
    canonical_payload,
    decode_assignment,
    decode_envelope,
    decode_ingress,
    decode_turn,
    encode_assignment,
    encode_envelope,
    encode_turn,
    payload_tag,
)
from xml_pipeline.envelope.model import ENVELOPE_NS, Assignment, Envelope, Kind, Outcome, Output, Reply, Turn
from xml_pipeline.envelope.parser import MAX_DEPTH, parse
from xml_pipeline.envelope.text import clean_text, escape_text
from xml_pipeline.errors import InvalidXml

SHOUT = b"<shouter.shout><text>hello</text></shouter.shout>"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
THREAD = UUID("00000000-0000-4000-8000-000000000001")

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", fullmatch=True)
texts = st.text().map(clean_text)
payloads = st.builds(
    lambda tag, text, attribute: canonical_payload(f"<{tag} a='{attribute}'><text>{escape_text(text)}</text></{tag}>"),
    names,
    texts,
    st.integers(),
)
counts = st.integers(0, 999_999_999)
outputs = st.one_of(
    st.builds(Output, st.just(Kind.REQUEST), texts, payloads),
    st.builds(Output, st.just(Kind.RESPONSE), st.none(), payloads),
    st.builds(Output, st.sampled_from((Kind.REQUEST, Kind.RESPONSE)), st.none() | texts, st.none(), texts.filter(bool)),
)
about_turns = (st.lists(outputs, max_size=4).map(tuple), st.none() | texts, counts)
ended = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.PARKED])
turns = st.builds(Turn, st.uuids(), st.uuids(), counts, ended, *about_turns) | st.builds(
    Turn, st.uuids(), st.uuids(), counts, st.just(Outcome.PARKED), *about_turns, st.integers(1, 10**16 - 1)
)
parents = st.none() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)
envelopes = st.builds(Envelope, names, names, st.uuids(), payloads, parents)
assignments = st.builds(
    Assignment,
    message_id=st.uuids(),
    attempt=counts,
    kind=st.sampled_from(Kind),
    call=st.uuids(),
    config_version=counts,
    timeout=st.floats(1e-3, 1e6),
    remaining=counts,
    replies=st.lists(st.builds(Reply, names, st.sampled_from(Kind), payloads), max_size=3).map(tuple),
    envelope=envelopes,
)


@given(envelopes)
def test_envelopes_survive(envelope: Envelope) -> None:
    data = encode_envelope(envelope)
    assert canonical(parse(data)) == data
    assert decode_envelope(data) == decode_ingress(data) == envelope


@given(turns)
def test_turns_survive(turn: Turn) -> None:
    data = encode_turn(turn)
    assert canonical(parse(data)) == data
    assert decode_turn(data) == decode_ingress(data) == turn


@given(assignments)
def test_assignments_survive(assignment: Assignment) -> None:
    data = encode_assignment(assignment)
    assert canonical(parse(data)) == data
    assert decode_assignment(data) == assignment


@given(payloads)
def test_the_tag_of_a_payload(payload: bytes) -> None:
    assert payload_tag(payload) == parse(payload).tag


def test_an_envelope_as_it_stands_in_the_contract() -> None:
    data = encode_envelope(Envelope("greeter", "shouter", THREAD, SHOUT))
    assert data == (
        b'<message xmlns="https://xml-pipeline.org/ns/envelope/v1"><meta><from>greeter</from><to>shouter</to>'
        b"<thread>00000000-0000-4000-8000-000000000001</thread></meta>"
        b'<shouter.shout xmlns=""><text>hello</text></shouter.shout></message>'
    )


def test_an_envelope_tells_of_the_span_that_sent_it() -> None:
    data = encode_envelope(Envelope("greeter", "shouter", THREAD, SHOUT, TRACEPARENT))
    assert f"</thread><traceparent>{TRACEPARENT}</traceparent></meta>".encode() in data


def test_an_envelope_somebody_wrote_by_hand() -> None:
    data = f"""<?xml version="1.0"?>
    <e:message xmlns:e="{ENVELOPE_NS}" xmlns:unused="urn:unused"> <!-- by hand -->
      <e:meta><e:from>a</e:from><e:to>b</e:to><e:thread>{THREAD}</e:thread></e:meta>
      <b.note  z='1' a="2"><text><![CDATA[<&]]></text><empty/></b.note>
    </e:message>""".encode()
    payload = b'<b.note a="2" z="1"><text>&lt;&amp;</text><empty></empty></b.note>'
    assert decode_envelope(data) == Envelope("a", "b", THREAD, payload)


def _message(inner: str, ns: str = ENVELOPE_NS) -> bytes:
    return f'<message xmlns="{ns}">{inner}</message>'.encode()


TRACED = f"<meta><from>a</from><to>b</to><thread>{THREAD}</thread><traceparent>%s</traceparent></meta>"
META = f"<meta><from>a</from><to>b</to><thread>{THREAD}</thread></meta>"
PAYLOAD = '<b.c xmlns=""/>'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_message(META + PAYLOAD, "urn:other"), id="namespace"),
        pytest.param(_message(META), id="no payload"),
        pytest.param(_message(TRACED % "00-junk" + PAYLOAD), id="a traceparent that is none"),
        pytest.param(_message(TRACED % TRACEPARENT.upper() + PAYLOAD), id="a traceparent in capitals"),
        pytest.param(_message(META + PAYLOAD + PAYLOAD), id="two payloads"),
        pytest.param(_message(PAYLOAD + META), id="order"),
        pytest.param(_message(META + META + PAYLOAD), id="two metas"),
        pytest.param(_message(META + "text" + PAYLOAD), id="text between"),
        pytest.param(_message(META + "<b.c/>"), id="payload in our namespace"),
        pytest.param(_message(META + '<b.c xmlns="urn:x"/>'), id="payload in another namespace"),
        pytest.param(_message(META.replace("<to>b</to>", "") + PAYLOAD), id="no target"),
        pytest.param(_message(META.replace("<to>b", "<to>b b") + PAYLOAD), id="a name with a space"),
        pytest.param(_message(META.replace("<to>b", "<to>" + "b" * 65) + PAYLOAD), id="a long name"),
        pytest.param(_message(META.replace("<to>b", "<to>\nb") + PAYLOAD), id="a name with a line break"),
        pytest.param(_message(META.replace(str(THREAD), "1") + PAYLOAD), id="thread"),
        pytest.param(_message(META.replace("<meta>", '<meta x="1">') + PAYLOAD), id="attribute"),
        pytest.param(b"<message/>", id="nothing"),
        pytest.param(b"<turn xmlns='https://xml-pipeline.org/ns/turn/v1'/>", id="an empty turn"),
    ],
)
def test_what_is_no_envelope(data: bytes) -> None:
    for decode in (decode_envelope, decode_ingress):
        with pytest.raises(InvalidXml):
            decode(data)


TURN = Turn(THREAD, THREAD, 1, Outcome.OK, (Output(Kind.REQUEST, "b", SHOUT),))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<attempt>1<", b"<attempt>-1<"),
        (b"<attempt>1<", b"<attempt>1e3<"),
        (b"<attempt>1<", b"<attempt>99999999999999999999<"),
        (b"<outcome>ok<", b"<outcome>fine<"),
        (b'kind="request"', b'kind="error"'),
        (b'kind="request"', b'kind="request" from="api"'),
        (b"<duration-ms>", b"<from>api</from><duration-ms>"),
        (SHOUT[1:15], b""),
        (b"<turn xmlns", b'<turn from="api" xmlns'),
    ],
)
def test_what_is_no_turn(old: bytes, new: bytes) -> None:
    data = encode_turn(TURN)
    assert old in data
    with pytest.raises(InvalidXml):
        decode_turn(data.replace(old, new, 1))


def test_a_parked_turn_tells_what_it_waits_for() -> None:
    turn = Turn(THREAD, THREAD, 1, Outcome.PARKED, reason="nothing left", asked=2**40)
    assert decode_turn(encode_turn(turn)) == turn
    assert b"asked" not in encode_turn(TURN)


@pytest.mark.parametrize(("outcome", "asked"), [(Outcome.PARKED, 0), (Outcome.OK, 1)])
def test_only_a_parked_turn_waits_and_only_for_something(outcome: Outcome, asked: int) -> None:
    with pytest.raises(InvalidXml, match="asked"):
        decode_turn(encode_turn(Turn(THREAD, THREAD, 1, outcome, asked=asked)))


def test_reasons_never_fail() -> None:
    turn = Turn(
        THREAD,
        THREAD,
        1,
        Outcome.ERROR,
        (Output(Kind.REQUEST, 'a"<\x00>', None, "\ud800 & <x>"), Output(Kind.RESPONSE, None, None, None)),
        reason="boom \x00\x1b[31m <&>\ufffe",
    )
    read = decode_turn(encode_turn(turn))
    assert read.reason == "boom \ufffd\ufffd[31m <&>\ufffd"
    assert read.outputs[0] == Output(Kind.REQUEST, 'a"<\ufffd>', None, "\ufffd & <x>")
    assert read.outputs[1].payload is None


def test_an_output_that_is_too_large_is_a_malformed_one() -> None:
    read = decode_turn(encode_turn(TURN), max_payload_bytes=len(SHOUT) - 1)
    assert (read.outputs[0].payload, read.outputs[0].malformed) == (None, "it has 49 bytes; at most 48 are allowed")
    assert decode_turn(encode_turn(TURN), max_payload_bytes=len(SHOUT)) == TURN


def test_a_payload_of_the_largest_depth_fits_everywhere() -> None:
    deep = canonical_payload(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH)
    envelope = Envelope("a", "b", THREAD, deep)
    assert decode_envelope(encode_envelope(envelope)) == envelope
    turn = Turn(THREAD, THREAD, 1, Outcome.OK, (Output(Kind.REQUEST, "b", deep),))
    assert decode_turn(encode_turn(turn)) == turn
    assignment = Assignment(THREAD, 1, Kind.REQUEST, THREAD, 1, 1.0, 0, (Reply("a", Kind.RESPONSE, deep),), envelope)
    assert decode_assignment(encode_assignment(assignment)) == assignment


def test_namespaces_inside_a_payload_stay_what_they_were() -> None:
    payload = canonical_payload(b'<b.c><d xmlns="urn:d"><e/></d><n:f xmlns:n="urn:n" n:g="1"/></b.c>')
    envelope = Envelope("a", "b", THREAD, payload)
    assert decode_envelope(encode_envelope(envelope)).payload == payload


def test_a_payload_with_a_namespace_of_its_own_makes_no_turn() -> None:
    with pytest.raises(InvalidXml):
        decode_turn(
            encode_turn(Turn(THREAD, THREAD, 1, Outcome.OK, (Output(Kind.REQUEST, "b", b'<x xmlns="urn:x"></x>'),)))
        )


def test_payload_by_hand() -> None:
    assert canonical_payload(" <a b='1'/> ") == b'<a b="1"></a>'
    with pytest.raises(InvalidXml, match="U\\+0000"):
        canonical_payload("<a>\x00</a>")
