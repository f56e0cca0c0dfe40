"""The WebSocket endpoints: commands in, live events out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import structlog
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from xml_pipeline.errors import Unavailable, XmlPipelineError
from xml_pipeline.server.access.guard import Guard, Stay
from xml_pipeline.server.access.table import role_of
from xml_pipeline.server.access.visitor import Visitor
from xml_pipeline.server.commands import AllCommands, Endpoint, MessageCommands, answer
from xml_pipeline.server.feed import Event, Subscription, to_json
from xml_pipeline.server.problems import Problem, problem_of, problem_response
from xml_pipeline.server.view import OrganismView

log = structlog.get_logger(__name__)

_TRY_AGAIN_LATER = 1013
_POLICY_VIOLATION = 1008
# A client that does not read cannot be told so either; it gets this long, in seconds, to take the last words.
_FAREWELL = 2.0


def create_websocket_router(view: OrganismView, *, max_command_bytes: int, guard: Guard | None = None) -> APIRouter:
    """`/ws` and `/ws/messages`; a longer command is answered by an error. Without a guard everybody is let in.

    Raises UnnamedOperation where no role is set for a path or a command.
    """
    router = APIRouter()
    _add(router, view, AllCommands, _whole, max_command_bytes, guard)
    _add(router, view, MessageCommands, _message_only, max_command_bytes, guard)
    return router


def _add(
    router: APIRouter,
    view: OrganismView,
    endpoint: type[Endpoint],
    pick: Callable[[Event], str | None],
    limit: int,
    guard: Guard | None,
) -> None:
    for operation in endpoint.operations():
        role_of(operation)

    @router.websocket(endpoint.path)
    async def serve(websocket: WebSocket) -> None:
        async with _admitted(websocket, guard, endpoint.path) as stay:
            if stay is None:
                return
            await websocket.accept()
            subscription = view.hub.subscribe(pick)
            commands = endpoint(view, subscription, stay.visitor)
            await Connection(websocket, subscription, commands, limit, stay).serve(view)


@asynccontextmanager
async def _admitted(websocket: WebSocket, guard: Guard | None, path: str) -> AsyncIterator[Stay | None]:
    """Whoever may come in, for as long as that is; None for who was refused at the handshake, and told why."""
    if guard is None:
        yield Stay(Visitor())
        return
    try:
        stay = guard.enter(await guard.admit(websocket.scope["headers"], path) or Visitor())
    except (Problem, XmlPipelineError) as error:
        problem = error if isinstance(error, Problem) else problem_of(error)
        log.debug("websocket.refused", code=problem.code)
        await websocket.send_denial_response(problem_response(problem))
        yield None
        return
    try:
        yield stay
    finally:
        guard.leave(stay)


def _whole(event: Event) -> str:
    return event.text


def _message_only(event: Event) -> str | None:
    return event.message_text if event.name == "message" else None


class Connection:
    """One client: a reader of its commands and a writer of its events; `_sending` keeps their words apart."""

    def __init__(
        self, websocket: WebSocket, subscription: Subscription, commands: Endpoint, max_command_bytes: int, stay: Stay
    ) -> None:
        self._websocket = websocket
        self._subscription = subscription
        self._commands = commands
        self._limit = max_command_bytes
        self._stay = stay
        self._sending = asyncio.Lock()

    async def serve(self, view: OrganismView) -> None:
        """Until the client goes, does not keep up, or is no longer welcome."""
        try:
            await self._greet()
            await self._talk()
            if self._stay.ended.is_set():
                await self._dismiss()
            elif self._subscription.lagged.is_set():
                await self._drop()
        except* WebSocketDisconnect:
            log.debug("websocket.gone")
        finally:
            view.hub.unsubscribe(self._subscription)

    async def _greet(self) -> None:
        try:
            greeting = await self._commands.greeting()
        except Unavailable as error:
            await self._send({"event": "error", "error": str(error)})
            await self._websocket.close(_TRY_AGAIN_LATER)
            raise WebSocketDisconnect(_TRY_AGAIN_LATER) from error
        if greeting is not None:
            await self._send(greeting)

    async def _talk(self) -> None:
        """Until the first of the four ends; a task group of the server's own kind, so that its cancellation passes."""
        async with anyio.create_task_group() as group:

            async def run(part: Callable[[], Awaitable[object]]) -> None:
                await part()
                group.cancel_scope.cancel()

            for part in (self._read, self._write, self._lagged, self._stay.ended.wait):
                group.start_soon(run, part)

    async def _read(self) -> None:
        async for text in self._incoming():
            # Events from before a command reach the client before its answer, those that it causes after it.
            async with self._sending:
                await self._send_events()
                await self._send(await answer(self._commands, text, self._limit))

    async def _incoming(self) -> AsyncIterator[str]:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            yield text if text is not None else (message.get("bytes") or b"").decode(errors="replace")

    async def _write(self) -> None:
        while True:
            await self._subscription.wait()
            async with self._sending:
                await self._send_events()

    async def _send_events(self) -> None:
        for text in self._subscription.take():
            await self._websocket.send_text(text)

    async def _lagged(self) -> None:
        await self._subscription.lagged.wait()

    async def _send(self, body: Mapping[str, Any]) -> None:
        await self._websocket.send_text(to_json(body))

    async def _drop(self) -> None:
        log.info("websocket.lagged")
        await self._farewell("lagged", "events came faster than they were read", _TRY_AGAIN_LATER)

    async def _dismiss(self) -> None:
        if self._stay.unsure:
            await self._farewell("error", "whether this API key is still in force is not known", _TRY_AGAIN_LATER)
        elif self._stay.visitor.key is None:
            await self._farewell("error", "an API key is needed from now on", _POLICY_VIOLATION)
        else:
            await self._farewell("error", "this API key was revoked", _POLICY_VIOLATION)

    async def _farewell(self, event: str, why: str, code: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._send({"event": event, "error": why})
                await self._websocket.close(code)
