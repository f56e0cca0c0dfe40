"""A bound on request bodies, whether or not they tell their length."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xml_pipeline.server.problems import problem_response
from xml_pipeline.server.refusals import too_large


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than `limit` bytes, and reads no more of it than that."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

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

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise too_large(self._limit)
            return message

        return counted


def _declared_length(scope: Scope) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0
