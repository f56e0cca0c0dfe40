"""The WebSocket endpoints: commands in, live events out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
import structlog
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from xml_pipeline.errors import Unavailable
from xml_pipeline.server.commands import AllCommands, MessageCommands, answer
from xml_pipeline.server.feed import Event, Subscription, to_json
from xml_pipeline.server.view import OrganismView

log = structlog.get_logger(__name__)

_TRY_AGAIN_LATER = 1013
# A client that does not read cannot be told so either; it gets this long, in seconds, to take the last words.
_FAREWELL = 2.0


class Commands(Protocol):
    """What one endpoint says first and answers."""

    async def greeting(self) -> Mapping[str, Any] | None:
        """The first object to the client, if there is one."""
        ...

    async def obey(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one command; raises BadCommand or one of the system's errors."""
        ...


def create_websocket_router(view: OrganismView, *, max_command_bytes: int) -> APIRouter:
    """`/ws` and `/ws/messages`; a longer command is answered by an error."""
    router = APIRouter()

    @router.websocket("/ws")
    async def everything(websocket: WebSocket) -> None:
        await websocket.accept()
        subscription = view.hub.subscribe(_whole)
        await Connection(websocket, subscription, AllCommands(view, subscription), max_command_bytes).serve(view)

    @router.websocket("/ws/messages")
    async def messages(websocket: WebSocket) -> None:
        await websocket.accept()
        subscription = view.hub.subscribe(_message_only)
        await Connection(websocket, subscription, MessageCommands(subscription), max_command_bytes).serve(view)

    return router


def _whole(event: Event) -> str:
    return event.text


def _message_only(event: Event) -> str | None:
    return event.message_text if event.name == "message" else None


class Connection:
    """One client: a reader of its commands and a writer of its events; `_sending` keeps their words apart."""

    def __init__(
        self, websocket: WebSocket, subscription: Subscription, commands: Commands, max_command_bytes: int
    ) -> None:
        self._websocket = websocket
        self._subscription = subscription
        self._commands = commands
        self._limit = max_command_bytes
        self._sending = asyncio.Lock()

    async def serve(self, view: OrganismView) -> None:
        """Until the client goes, or is dropped because it does not keep up."""
        try:
            await self._greet()
            await self._talk()
            if self._subscription.lagged.is_set():
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
        """Until the first of the three ends; a task group of the server's own kind, so that its cancellation passes."""
        async with anyio.create_task_group() as group:

            async def run(part: Callable[[], Awaitable[None]]) -> None:
                await part()
                group.cancel_scope.cancel()

            for part in (self._read, self._write, self._lagged):
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self._send({"event": "lagged", "error": "events came faster than they were read"})
                await self._websocket.close(_TRY_AGAIN_LATER)
