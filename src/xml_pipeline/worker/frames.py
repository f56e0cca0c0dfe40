"""Frames between a worker and its children: a JSON header and some byte strings. Nothing in them is ever executed."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

MAX_FRAME = 64 * 1024 * 1024
_PREFIX = struct.Struct("!II")


class BadFrame(Exception):
    """Bytes that are no frame: the other side cannot be trusted any longer."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`header` is a JSON object, `blobs` are raw bytes."""

    header: dict[str, object]
    blobs: tuple[bytes, ...] = ()


def encode_frame(frame: Frame) -> bytes:
    """Length of all, length of the header, header, blobs."""
    header = json.dumps({**frame.header, "blobs": [len(blob) for blob in frame.blobs]}).encode()
    size = len(header) + sum(map(len, frame.blobs))
    return b"".join((_PREFIX.pack(size, len(header)), header, *frame.blobs))


def _decode(body: memoryview, header_size: int) -> Frame:
    try:
        header = json.loads(bytes(body[:header_size]))
        sizes = header.pop("blobs")
        blobs = _cut(body[header_size:], sizes)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadFrame(f"not a frame: {error}") from None
    return Frame(header, blobs)


def _cut(rest: memoryview, sizes: Sequence[int]) -> tuple[bytes, ...]:
    if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != len(rest):
        raise BadFrame("blobs do not add up")
    blobs, start = [], 0
    for size in sizes:
        blobs.append(bytes(rest[start : start + size]))
        start += size
    return tuple(blobs)


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete with `data`. Raises BadFrame."""
        self._buffer += data
        frames, position = [], 0
        while (end := self._end(position)) is not None:
            header_size = _PREFIX.unpack_from(self._buffer, position)[1]
            with memoryview(self._buffer) as whole:
                frames.append(_decode(whole[position + _PREFIX.size : end], header_size))
            position = end
        del self._buffer[:position]
        return frames

    def _end(self, position: int) -> int | None:
        if len(self._buffer) - position < _PREFIX.size:
            return None
        size, header_size = _PREFIX.unpack_from(self._buffer, position)
        if size > MAX_FRAME or header_size > size:
            raise BadFrame(f"a frame of {size} bytes")
        end: int = position + _PREFIX.size + size
        return end if end <= len(self._buffer) else None


class FrameChannel(asyncio.Protocol):
    """Both ends of the socket. What is sent within one turn of the event loop leaves as one write.

    `on_lost` is called once: when the other side is gone, or sent what is no frame.
    """

    def __init__(self, on_frames: Callable[[list[Frame]], None], on_lost: Callable[[str], None]) -> None:
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self._reason = "the other side is gone"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            frames = self._reader.feed(data)
        except BadFrame as error:
            self.abort(str(error))
            return
        self._on_frames(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self._on_lost(self._reason)

    def send(self, frame: Frame) -> None:
        """Send soon; nothing where the other side is gone."""
        if not self._pending:
            asyncio.get_running_loop().call_soon(self.flush)
        self._pending.append(encode_frame(frame))

    def flush(self) -> None:
        """Write what waits."""
        data, self._pending = b"".join(self._pending), []
        if data and self._transport is not None:
            self._transport.write(data)

    def abort(self, reason: str) -> None:
        """Drop the connection; `on_lost` is told the reason."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()
