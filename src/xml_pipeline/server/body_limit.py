"""A bound on request bodies, in size, whether or not they tell it, and in the time that they take to arrive."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xml_pipeline.server.problems import problem_response
from xml_pipeline.server.refusals import too_large, too_slow

# Seconds that a client may take to send its body.
BODY_WITHIN = 30.0


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than `limit` bytes, 408 to one that takes more than `seconds`.

    It reads no more of either than that.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float = BODY_WITHIN) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif _declared_length(scope) > self._limit:
            await problem_response(too_large(self._limit))(scope, receive, send)
        else:
            await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0
        # Once all is there, what comes next is the client's leaving, however late.
        until: float | None = asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal seen, until
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise too_slow(self._seconds) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise too_large(self._limit)
                until = until if message.get("more_body") else None
            return message

        return counted


def _declared_length(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0
