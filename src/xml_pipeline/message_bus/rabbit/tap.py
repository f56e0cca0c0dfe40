"""The bytes of one connection: frames of the hot path are taken here, all others go on to aiormq."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol, cast

from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from xml_pipeline.message_bus.rabbit import frames

_FRAME_KINDS = (1, 2, 3, 8)


class Channel(Protocol):
    """Who takes the frames of one channel, method by method and content by content."""

    def take_method(self, method: tuple[int, int], data: bytes, start: int) -> bool:
        """Take a method whose arguments begin at `start`; False leaves it to aiormq."""

    def take_header(self, data: bytes, start: int, end: int) -> None:
        """Take a content header."""

    def take_body(self, part: bytes) -> None:
        """Take a part of a body."""

    def lose(self) -> None:
        """The channel is closed, or its connection lost; may be told more than once."""


class Tap(asyncio.StreamReaderProtocol):
    """Splits what arrives into frames. It counts silence, since aiormq sees only a part of the traffic."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._reader = reader
        self._rest = b""
        self._channels: dict[int, Channel] = {}
        self._heard = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self.transport: asyncio.Transport | None = None
        self.silent_ticks = 0
        self.lost = asyncio.Event()

    @property
    def blocked(self) -> bool:
        """Whether the broker said that it takes no publishes for now."""
        return not self._unblocked.is_set()

    @property
    def writable(self) -> bool:
        """Whether the broker takes publishes and the socket is not too far behind."""
        return self._unblocked.is_set() and self._writable.is_set()

    async def wait_writable(self) -> None:
        """Return when it is writable, or lost."""
        while not self.writable:
            await self._unblocked.wait()
            await self._writable.wait()

    def attach(self, number: int, channel: Channel) -> Callable[[], None]:
        """Give the hot frames of a channel to somebody, until the returned function is called."""
        self._channels[number] = channel

        def detach() -> None:
            if self._channels.get(number) is channel:
                del self._channels[number]

        return detach

    def write(self, data: bytes) -> None:
        """Send whole frames; on a lost connection they are dropped."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def tick(self) -> None:
        """Count one second: of silence, or of traffic, of which aiormq is told by a heartbeat."""
        if not self._heard:
            self.silent_ticks += 1
            return
        self._heard = False
        self.silent_ticks = 0
        super().data_received(frames.HEARTBEAT)

    def abort(self) -> None:
        """Cut the connection without a word."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # uvloop's transports do not inherit from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whoever waits to write goes on, and finds the connection closed."""
        self.lost.set()
        self._writable.set()
        self._unblocked.set()
        for channel in list(self._channels.values()):
            channel.lose()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Note that the socket is behind."""
        self._writable.clear()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the socket has room again."""
        self._writable.set()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take all whole frames."""
        self._heard = True
        buffer = self._rest + data if self._rest else data
        position, size = 0, len(buffer)
        while size - position >= frames.FRAME_OVERHEAD:
            kind, number, length = frames.FRAME.unpack_from(buffer, position)
            if kind not in _FRAME_KINDS:  # "AMQP", the answer to a version it does not speak
                super().data_received(buffer[position:])
                position = size
                break
            end = position + length + frames.FRAME_OVERHEAD
            if end > size:
                break
            if not self._take(kind, number, buffer, position + 7, end - 1):
                super().data_received(buffer[position:end])
            position = end
        self._rest = buffer[position:]

    def _take(self, kind: int, number: int, data: bytes, start: int, end: int) -> bool:
        channel = self._channels.get(number)
        if channel is None:
            if number == 0 and kind == frames.METHOD:
                self._note_blocking(data, start)
            return False
        if kind == frames.BODY:
            channel.take_body(data[start:end])
        elif kind == frames.HEADER:
            channel.take_header(data, start, end)
        else:
            return channel.take_method(frames.METHOD_ID.unpack_from(data, start), data, start + 4)
        return True

    def _note_blocking(self, data: bytes, start: int) -> None:
        method = frames.METHOD_ID.unpack_from(data, start)
        if method == frames.CONNECTION_BLOCKED:
            self._unblocked.clear()
        elif method == frames.CONNECTION_UNBLOCKED:
            self._unblocked.set()


class TapFactory(TransportFactory):
    """Lets aiormq open its connection through a tap, which is `tap` from then on."""

    def __init__(self) -> None:
        self.tap: Tap | None = None

    def abort(self) -> None:
        """Cut what was opened."""
        if self.tap is not None:
            self.tap.abort()

    async def create(self, url: URL, **options: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open the socket; raises AMQPConnectionError."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        tap = Tap(reader, loop)
        try:
            tls = await _tls(url, options.get("ssl_context_provider"))
            transport, _ = await loop.create_connection(lambda: tap, url.host or "localhost", url.port or 5672, ssl=tls)
        except OSError as failure:
            raise AMQPConnectionError(*failure.args) from failure
        self.tap = tap
        return reader, asyncio.StreamWriter(transport, tap, reader, loop)


async def _tls(url: URL, provider: object) -> ssl.SSLContext | None:
    if url.scheme == "amqps" and isinstance(provider, SSLContextProvider):
        return await provider.get_context()
    return None
