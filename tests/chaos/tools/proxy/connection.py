"""A client, the server behind the proxy, and the two pipes between them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from tests.chaos.tools.proxy.amqp import AmqpFilter
from tests.chaos.tools.proxy.faults import Blackhole, Wire
from tests.chaos.tools.proxy.pipe import End, Pipe, reset
from tests.chaos.tools.proxy.postgres import EncryptedError, PostgresFilter
from tests.chaos.tools.proxy.traps import Traps

Connect = Callable[[Callable[[], asyncio.Protocol]], Awaitable[object]]
Filter = Callable[[bytes], tuple[bytes, bool]]


class StreamFilter(Protocol):
    """Decides what passes of a stream, and whether its connection is to be reset."""

    def from_client(self, data: bytes) -> tuple[bytes, bool]: ...

    def from_server(self, data: bytes) -> tuple[bytes, bool]: ...


class BytesFilter:
    """Lets everything pass."""

    def from_client(self, data: bytes) -> tuple[bytes, bool]:
        return data, False

    def from_server(self, data: bytes) -> tuple[bytes, bool]:
        return data, False


def make_filter(wire: Wire, traps: Traps) -> StreamFilter:
    """The filter of one connection that speaks this protocol."""
    if wire == "amqp":
        return AmqpFilter(traps)
    return PostgresFilter(traps) if wire == "postgresql" else BytesFilter()


class Connection:
    """Opens its way to the server as soon as no black hole is in between; it ends when either end does."""

    def __init__(
        self,
        traps: Traps,
        stream: StreamFilter,
        connect: Connect,
        *,
        passed: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        self._traps = traps
        self._connect = connect
        self._passed = passed
        self._gone = gone
        self._open = True
        self._opening: asyncio.Task[None] | None = None
        self._to_server = Pipe(traps, lambda data: self._request(stream.from_client, data), self._end)
        self._to_client = Pipe(traps, lambda data: self._answer(stream.from_server, data), self._end)

    def client_end(self) -> asyncio.Protocol:
        """The protocol of the accepted connection."""
        return _Side(self._to_server, self._to_client, self.move)

    def move(self) -> None:
        """Do what the fault that holds now lets happen."""
        if self._opening is None and not isinstance(self._traps.fault, Blackhole):
            self._opening = asyncio.create_task(self._open_server_end())
        self._to_server.move()
        self._to_client.move()

    def reset(self) -> None:
        """End both sides with a RST."""
        if self._open:
            self._traps.stats.resets += 1
        self._end(End.RESET)

    async def _open_server_end(self) -> None:
        try:
            await self._connect(lambda: _Side(self._to_client, self._to_server, self._server_end_is_open))
        except OSError:
            # The server is not there: its client sees what it would see without us, near enough.
            self._end(End.RESET)

    def _server_end_is_open(self) -> None:
        if self._open:
            self.move()
        elif self._to_client.source is not None:
            reset(self._to_client.source)

    def _end(self, how: End) -> None:
        if not self._open:
            return
        self._open = False
        for pipe in (self._to_server, self._to_client):
            pipe.close()
            if pipe.sink is not None:
                if how is End.RESET:
                    reset(pipe.sink)
                else:
                    pipe.sink.close()
        self._gone()

    def _request(self, stream: Filter, data: bytes) -> bytes:
        passed = self._filtered(stream, data)
        self._traps.stats.bytes_to_server += len(passed)
        return passed

    def _answer(self, stream: Filter, data: bytes) -> bytes:
        passed = self._filtered(stream, data)
        self._traps.stats.bytes_to_client += len(passed)
        self._passed()
        return passed

    def _filtered(self, stream: Filter, data: bytes) -> bytes:
        try:
            passed, over = stream(data)
        except EncryptedError:
            self.reset()
            raise
        if over:
            self.reset()
            return b""
        return passed


class _Side(asyncio.Protocol):
    """One end of a connection: it feeds one pipe and is the sink of the other."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, made: Callable[[], None]) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        self._incoming.source = self._outgoing.sink = stream
        self._made()

    def data_received(self, data: bytes) -> None:
        self._incoming.feed(data)

    def eof_received(self) -> bool:
        self._incoming.feed(End.CLOSED)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._incoming.feed(End.RESET if exc else End.CLOSED)

    def pause_writing(self) -> None:
        self._outgoing.sink_is_full(True)

    def resume_writing(self) -> None:
        self._outgoing.sink_is_full(False)
