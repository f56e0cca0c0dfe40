"""An answer for requests that are still under way when a gateway can wait no longer."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xml_pipeline.server.problems import RETRY_AFTER_SECONDS, Problem, problem_response


class LastAnswers:
    """Passes everything on to an app, and knows which requests have not been answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[asyncio.Task[Any]] = set()
        self._given_up = False

    def give_up(self) -> None:
        """Answer all with 503, whatever they wait for. Who asked must ask again: it may have been done or not."""
        self._given_up = True
        for task in tuple(self._open):
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        started = False

        async def pass_on(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._open.add(task)
        try:
            await self._app(scope, receive, pass_on)
        except asyncio.CancelledError:
            if started or not self._given_up:
                raise
            task.uncancel()
            await problem_response(_stopping())(scope, receive, send)
        finally:
            self._open.discard(task)


def _stopping() -> Problem:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Problem(503, "unavailable", "the gateway stops, and a part that is needed does not answer", headers=headers)
