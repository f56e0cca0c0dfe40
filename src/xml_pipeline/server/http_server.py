"""uvicorn inside somebody else's event loop: a bound socket, no signal handlers, an end that waits for requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from xml_pipeline.errors import Unavailable

_GRACE_SECONDS = 10
_BACKLOG = 2048
# A client that acknowledges nothing of what it is sent, or takes none of it, is cut off after so many seconds.
STALLED_AFTER = 60
# A WebSocket command that is merely too large is answered; only past this many times the bound the line is cut.
_FRAME_FACTOR = 8


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


class HttpServer:
    """Serves an app on one socket."""

    def __init__(self, app: FastAPI, listening: socket.socket, *, max_message_bytes: int) -> None:
        self._listening = listening
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="websockets-sansio",
            ws_max_size=_FRAME_FACTOR * max_message_bytes,
            # An event is the same bytes for every client; deflating it for each would cost more than all the rest.
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = _QuietServer(config)

    async def serve(self) -> None:
        """Until `stop`; whoever cancels it stops it at once."""
        try:
            await self._server.serve(sockets=[self._listening])
        finally:
            for server in self._server.servers:
                server.close()
            self._listening.close()

    def stop(self) -> None:
        """Take no new connections, answer what is under way, then `serve` returns."""
        self._server.should_exit = True

    async def wait_started(self) -> None:
        """Until it takes connections."""
        await self._server.listening.wait()


class _QuietServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.servers: list[asyncio.Server] = []
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs the process."""
        yield
