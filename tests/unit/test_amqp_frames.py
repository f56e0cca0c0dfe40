from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from xml_pipeline.message_bus.limits import is_publishable
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.rabbit import frames
from xml_pipeline.message_bus.rabbit.publisher import Batch
from xml_pipeline.message_bus.rabbit.tap import Tap

names = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60)
headers = st.dictionaries(names, names | st.integers(-(2**63), 2**63 - 1), max_size=5)
outgoing = st.builds(
    Outgoing,
    exchange=names,
    routing_key=names,
    body=st.binary(max_size=300),
    headers=headers,
    persistent=st.booleans(),
    correlation_id=st.none() | names,
    reply_to=st.none() | names,
)


@given(outgoing, st.integers(20, 400))
def test_a_publish_is_what_another_client_reads(message: Outgoing, frame_max: int) -> None:
    data = frames.encode_publish(7, message, "token.1", frame_max)
    parts = _read_all(data)
    method, header, *body = parts
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == (message.exchange, message.routing_key, True)
    assert isinstance(header, ContentHeader)
    properties = header.properties
    assert header.body_size == len(message.body)
    assert (properties.headers or {}) == dict(message.headers)
    assert properties.delivery_mode == (2 if message.persistent else 1)
    assert (properties.correlation_id, properties.reply_to) == (message.correlation_id, message.reply_to)
    assert properties.message_id == "token.1"
    assert b"".join(part.value for part in body if isinstance(part, ContentBody)) == message.body
    assert all(isinstance(part, ContentBody) and len(part.value) + 8 <= frame_max for part in body)


@given(outgoing)
def test_properties_are_read_as_they_were_written(message: Outgoing) -> None:
    data = frames.encode_publish(1, message, "token.1", 131072)
    start = 7 + int.from_bytes(data[3:7], "big") + 1 + 7
    read = frames.decode_properties(data, start, len(data))
    assert read == frames.Properties(dict(message.headers), message.correlation_id, message.reply_to, "token.1")
    assert frames.decode_body_size(data, start) == len(message.body)


@given(st.binary(max_size=200))
def test_junk_for_properties_is_no_error(data: bytes) -> None:
    assert isinstance(frames.decode_properties(b"\x00" * 12 + data, 0, len(data) + 12), frames.Properties)


@given(st.integers(1, 2**62), st.booleans(), st.from_regex(r"[a-z0-9._:@#/-]{0,60}", fullmatch=True), names)
def test_a_delivery_is_read(tag: int, redelivered: bool, exchange: str, key: str) -> None:
    method = commands.Basic.Deliver("consumer", tag, redelivered, exchange, key)
    data = frame.marshal(method, 3)
    assert frames.decode_deliver(data, 11) == frames.Delivery(tag, redelivered, exchange, key)


def test_acks_and_nacks_are_what_another_client_reads() -> None:
    acks = _read_all(frames.encode_acks(2, [(5, True), (9, False)]))
    assert [(one.delivery_tag, one.multiple) for one in acks if isinstance(one, commands.Basic.Ack)] == [
        (5, True),
        (9, False),
    ]
    (nack,) = _read_all(frames.encode_nacks(2, [(5, True)], requeue=True))
    assert isinstance(nack, commands.Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (5, True, True)


@pytest.mark.parametrize("piece", [1, 3, 7, 8, 9, 50, 10_000])
async def test_frames_arrive_whole_in_whatever_pieces(piece: int) -> None:
    tap, reader = _tap()
    seen = _Recorder()
    tap.attach(3, seen)
    cold = frame.marshal(commands.Queue.DeclareOk("q", 1, 2), 1)
    hot = [
        frame.marshal(commands.Basic.Deliver("c", 4, False, "", "k"), 3),
        frame.marshal(ContentHeader(body_size=3), 3),
        frame.marshal(ContentBody(b"abc"), 3),
        frame.marshal(commands.Basic.Ack(6, True), 3),
    ]
    stream = b"".join([cold, *hot, cold])
    for start in range(0, len(stream), piece):
        tap.data_received(stream[start : start + piece])
    assert seen.taken == ["method (60, 60)", "header", "body b'abc'", "method (60, 80)"]
    assert await reader.readexactly(2 * len(cold)) == cold + cold


async def test_what_nobody_takes_goes_on() -> None:
    tap, reader = _tap()
    detach = tap.attach(3, _Recorder())
    close = frame.marshal(commands.Channel.Close(404, "gone", 60, 40), 3)
    tap.data_received(close)
    detach()
    ack = frame.marshal(commands.Basic.Ack(1), 3)
    tap.data_received(ack)
    tap.data_received(b"AMQP\x00\x00\x09\x01")
    assert await reader.readexactly(len(close) + len(ack) + 8) == close + ack + b"AMQP\x00\x00\x09\x01"


async def test_silence_is_counted_and_traffic_is_passed_on_as_a_heartbeat() -> None:
    tap, reader = _tap()
    tap.attach(3, _Recorder())
    tap.tick()
    tap.tick()
    assert tap.silent_ticks == 2
    tap.data_received(frame.marshal(commands.Basic.Ack(1), 3))
    tap.tick()
    assert tap.silent_ticks == 0
    assert await reader.readexactly(8) == frames.HEARTBEAT


async def test_a_blocked_connection_is_not_writable_until_unblocked() -> None:
    tap, _ = _tap()
    tap.data_received(frame.marshal(commands.Connection.Blocked("low on memory"), 0))
    waiting = asyncio.create_task(tap.wait_writable())
    await asyncio.sleep(0)
    assert tap.blocked
    assert not waiting.done()
    tap.data_received(frame.marshal(commands.Connection.Unblocked(), 0))
    await waiting


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans(), st.booleans()), max_size=30))
def test_every_publish_of_a_batch_gets_the_first_outcome_told(told: list[tuple[int, bool, bool]]) -> None:
    async def check() -> None:
        batch = Batch(3, 8)
        expected: dict[int, Published] = {}
        for tag, multiple, ok in told:
            outcome = Published.CONFIRMED if ok else Published.REFUSED
            covered = range(3, min(tag, 10) + 1) if multiple else range(tag, tag + 1) if 3 <= tag <= 10 else range(0)
            if multiple:
                batch.settle_up_to(tag, outcome)
            elif covered:
                batch.settle(tag, outcome)
            for one in covered:
                expected.setdefault(one, outcome)
        assert batch.outcomes == [expected.get(tag) for tag in range(3, 11)]
        assert batch.done.done() == (len(expected) == 8)
        batch.give_up()
        assert batch.done.done()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("message", "publishable"),
    [
        (Outgoing("", "k", b""), True),
        (Outgoing("", "k" * 255, b""), True),
        (Outgoing("", "k" * 256, b""), False),
        (Outgoing("", "é" * 127, b""), True),
        (Outgoing("", "é" * 128, b""), False),
        (Outgoing("", "k", b"", {"n": 2**63 - 1}), True),
        (Outgoing("", "k", b"", {"n": 2**63}), False),
        (Outgoing("", "k", b"", reply_to="r" * 256), False),
    ],
)
def test_what_a_broker_can_carry(message: Outgoing, publishable: bool) -> None:
    assert is_publishable(message) is publishable


class _Recorder:
    def __init__(self) -> None:
        self.taken: list[str] = []

    def take_method(self, method: tuple[int, int], data: bytes, start: int) -> bool:
        if method[0] != 60:
            return False
        self.taken.append(f"method {method}")
        return True

    def take_header(self, data: bytes, start: int, end: int) -> None:
        self.taken.append("header")

    def take_body(self, part: bytes) -> None:
        self.taken.append(f"body {part!r}")

    def lose(self) -> None:
        self.taken.append("lost")


def _tap() -> tuple[Tap, asyncio.StreamReader]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    return Tap(reader, loop), reader


def _read_all(data: bytes) -> list[object]:
    parts: list[object] = []
    while data:
        size, _, part = frame.unmarshal(data)
        parts.append(part)
        data = data[size:]
    return parts
