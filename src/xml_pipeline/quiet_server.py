"""uvicorn inside somebody else's event loop: a bound socket, no signal handlers, an end when it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from xml_pipeline.errors import Unavailable

_BACKLOG = 2048
# A client that acknowledges nothing of what it is sent, or takes none of it, is cut off after so many seconds.
STALLED_AFTER = 60


def address_of(host: str, port: int) -> str:
    """The IP address that listening on a host means. Raises Unavailable."""
    try:
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4][0]
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return str(address)


def bind(host: str, port: int, *, stalled_after: float = STALLED_AFTER) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises Unavailable."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _cut_off_stalled(listening, stalled_after)
            listening.bind(address)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


def _cut_off_stalled(listening: socket.socket, seconds: float) -> None:
    """Accepted connections inherit it. It is the kernel's: nothing here waits for a client that is gone for good."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, STALLED_AFTER)


class QuietServer(uvicorn.Server):
    """A server that leaves signals to whoever runs the process, and tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers: list[asyncio.Server] = []
        self.listening = asyncio.Event()

    async def serve_on(self, listening: socket.socket) -> None:
        """Until `should_exit` is set; whoever cancels it stops it at once."""
        try:
            await self.serve(sockets=[listening])
        finally:
            for server in self.servers:
                server.close()
            listening.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs the process."""
        yield
