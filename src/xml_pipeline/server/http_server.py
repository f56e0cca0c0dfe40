"""The gateway's server: an end that waits for requests."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from xml_pipeline.quiet_server import QuietServer
from xml_pipeline.stopping import REQUESTS

# A WebSocket command that is merely too large is answered; only past this many times the bound the line is cut.
_FRAME_FACTOR = 8


class HttpServer:
    """Serves an app on one socket."""

    def __init__(self, app: ASGIApp, listening: socket.socket, *, max_message_bytes: int) -> None:
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
            timeout_graceful_shutdown=REQUESTS,
        )
        self._server = QuietServer(config)

    async def serve(self) -> None:
        """Until `stop`; whoever cancels it stops it at once."""
        await self._server.serve_on(self._listening)

    def stop(self) -> None:
        """Take no new connections, answer what is under way, then `serve` returns."""
        self._server.should_exit = True

    async def wait_started(self) -> None:
        """Until it takes connections."""
        await self._server.listening.wait()
