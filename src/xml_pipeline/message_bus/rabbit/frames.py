"""AMQP 0-9-1 frames of the hot path, to and from bytes: publishes, deliveries, returns, confirms and acks.

The libraries below us make an object and several awaits of each frame; here a batch becomes one piece of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from struct import Struct, error
from typing import Final

from pamqp import decode
from pamqp.exceptions import PAMQPException

from xml_pipeline.message_bus.port import Outgoing

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = bytes((8, 0, 0, 0, 0, 0, 0, 0xCE))
FRAME_OVERHEAD: Final = 8
FRAME_END: Final = b"\xce"

DELIVER: Final = (60, 60)
RETURN: Final = (60, 50)
ACK: Final = (60, 80)
NACK: Final = (60, 120)
CONNECTION_BLOCKED: Final = (10, 60)
CONNECTION_UNBLOCKED: Final = (10, 61)

FRAME = Struct(">BHI")
METHOD_ID = Struct(">HH")
_PUBLISH = Struct(">HHH")
_CONTENT = Struct(">HHQH")
_SIZE = Struct(">Q")
_FLAGS = Struct(">H")
_LENGTH = Struct(">I")
_INTEGER = Struct(">q")
_TAG_BITS = Struct(">QB")
_SETTLE = Struct(">BHIHHQB")
_MANDATORY = b"\x01"
_PERSISTENT = b"\x02"
_TRANSIENT = b"\x01"

_HAS_HEADERS = 1 << 13
_HAS_DELIVERY_MODE = 1 << 12
_HAS_CORRELATION_ID = 1 << 10
_HAS_REPLY_TO = 1 << 9
_HAS_MESSAGE_ID = 1 << 7

_EMPTY: Mapping[str, str | int] = {}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The method of a delivery, before its content."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class Properties:
    """What the system uses of a message's properties; headers of other types than text and integer are left out."""

    headers: Mapping[str, str | int] = field(default_factory=dict)
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None


def encode_publish(channel: int, message: Outgoing, message_id: str, frame_max: int) -> bytes:
    """All frames of one mandatory publish."""
    method = _PUBLISH.pack(60, 40, 0) + _short(message.exchange) + _short(message.routing_key) + _MANDATORY
    header = _encode_header(message, message_id)
    body = message.body
    frames = [
        FRAME.pack(METHOD, channel, len(method)),
        method,
        FRAME_END,
        FRAME.pack(HEADER, channel, len(header)),
        header,
        FRAME_END,
    ]
    room = frame_max - FRAME_OVERHEAD
    for start in range(0, len(body), room):
        part = body if len(body) <= room else body[start : start + room]
        frames += (FRAME.pack(BODY, channel, len(part)), part, FRAME_END)
    return b"".join(frames)


def encode_acks(channel: int, tags: Iterable[tuple[int, bool]]) -> bytes:
    """One ack for each (tag, multiple)."""
    return b"".join(_SETTLE.pack(METHOD, channel, 13, *ACK, tag, multiple) + FRAME_END for tag, multiple in tags)


def encode_nacks(channel: int, tags: Iterable[tuple[int, bool]], *, requeue: bool) -> bytes:
    """One nack for each (tag, multiple)."""
    bits = 2 if requeue else 0
    return b"".join(
        _SETTLE.pack(METHOD, channel, 13, *NACK, tag, multiple | bits) + FRAME_END for tag, multiple in tags
    )


def decode_deliver(data: bytes, start: int) -> Delivery:
    """The delivery method whose arguments begin at `start`."""
    start += 1 + data[start]  # the consumer tag: a channel has one consumer
    tag, redelivered = _TAG_BITS.unpack_from(data, start)
    exchange, start = _read_short(data, start + 9)
    routing_key, _ = _read_short(data, start)
    return Delivery(tag, bool(redelivered), exchange, routing_key)


def decode_confirm(data: bytes, start: int) -> tuple[int, bool]:
    """Tag and `multiple` of an ack or nack whose arguments begin at `start`."""
    tag, bits = _TAG_BITS.unpack_from(data, start)
    return tag, bool(bits & 1)


def decode_body_size(data: bytes, start: int) -> int:
    """The size in bytes of the body that follows a content header beginning at `start`."""
    size: int = _SIZE.unpack_from(data, start + 4)[0]
    return size


def decode_properties(data: bytes, start: int, end: int) -> Properties:
    """The properties of a content header; empty where they make no sense, so that junk cannot stop the reader."""
    try:
        return _read_properties(data, start + 12)
    except (error, IndexError, ValueError, PAMQPException):
        return Properties()


def _encode_header(message: Outgoing, message_id: str) -> bytes:
    flags = _HAS_DELIVERY_MODE | _HAS_MESSAGE_ID
    parts = [b""]
    if message.headers:
        flags |= _HAS_HEADERS
        parts.append(_encode_table(message.headers))
    parts.append(_PERSISTENT if message.persistent else _TRANSIENT)
    if message.correlation_id is not None:
        flags |= _HAS_CORRELATION_ID
        parts.append(_short(message.correlation_id))
    if message.reply_to is not None:
        flags |= _HAS_REPLY_TO
        parts.append(_short(message.reply_to))
    parts.append(_short(message_id))
    parts[0] = _CONTENT.pack(60, 0, len(message.body), flags)
    return b"".join(parts)


def _encode_table(headers: Mapping[str, str | int]) -> bytes:
    parts = [b""]
    for key, value in headers.items():
        if isinstance(value, str):
            text = value.encode()
            parts += (_short(key), b"S", _LENGTH.pack(len(text)), text)
        else:
            parts += (_short(key), b"l", _INTEGER.pack(value))
    parts[0] = _LENGTH.pack(sum(map(len, parts)))
    return b"".join(parts)


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


def _read_short(data: bytes, start: int) -> tuple[str, int]:
    end = start + 1 + data[start]
    return data[start + 1 : end].decode("utf-8", "replace"), end


def _read_properties(data: bytes, start: int) -> Properties:
    flags = _FLAGS.unpack_from(data, start)[0]
    start += 2
    for bit in (15, 14):  # content type and encoding
        if flags & (1 << bit):
            _, start = _read_short(data, start)
    headers = _EMPTY
    if flags & _HAS_HEADERS:
        headers, start = _read_table(data, start)
    start += bool(flags & _HAS_DELIVERY_MODE) + bool(flags & (1 << 11))  # and priority: a byte each
    texts: list[str | None] = [None, None, None, None]
    for place, bit in enumerate((10, 9, 8, 7)):  # correlation id, reply to, expiration, message id
        if flags & (1 << bit):
            texts[place], start = _read_short(data, start)
    return Properties(headers, correlation_id=texts[0], reply_to=texts[1], message_id=texts[3])


def _read_table(data: bytes, start: int) -> tuple[Mapping[str, str | int], int]:
    begin = start + 4
    end = begin + _LENGTH.unpack_from(data, start)[0]
    headers: dict[str, str | int] = {}
    position = begin
    while position < end:
        key, position = _read_short(data, position)
        kind = data[position]
        if kind == 0x53:  # S, text
            size = _LENGTH.unpack_from(data, position + 1)[0]
            headers[key] = data[position + 5 : position + 5 + size].decode("utf-8", "replace")
            position += 5 + size
        elif kind == 0x6C:  # l, integer
            headers[key] = _INTEGER.unpack_from(data, position + 1)[0]
            position += 9
        else:
            return _read_any_table(data[start:end]), end
    return headers, end


def _read_any_table(data: bytes) -> Mapping[str, str | int]:
    _, table = decode.field_table(data)
    return {key: value for key, value in table.items() if isinstance(value, str | int) and not isinstance(value, bool)}
