"""The app: routes, WebSockets, errors and bounds put together around one view of an organism."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.api import create_router
from xml_pipeline.server.body_limit import BodyLimit
from xml_pipeline.server.looking.view import StateView
from xml_pipeline.server.openapi import install_openapi
from xml_pipeline.server.problems import install_problem_handlers
from xml_pipeline.server.pump import Pump
from xml_pipeline.server.state import ServerState
from xml_pipeline.server.view import OrganismView, UsageStore
from xml_pipeline.server.websocket import create_websocket_router

MAX_BODY_BYTES = 256 * 1024


def create_app(
    pump: Pump | None = None,
    *,
    state: ServerState | None = None,
    usage: UsageStore | None = None,
    view: OrganismView | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    guard: Guard | None = None,
) -> FastAPI:
    """An app for a pump (see `server.pump`). It answers whether or not its lifespan has run.

    `state` and `usage` replace what is made for the pump; `view` replaces all three. Without a `guard` nobody needs a
    key: who embeds the app decides who reaches it.
    """
    if view is None:
        state = state or _state_of(pump)
        view = StateView(state, usage)
    app = FastAPI(title="xml-pipeline", version="1", lifespan=_lifespan(state), redoc_url=None)
    app.state.server_state = state
    app.state.view = view
    app.include_router(create_router(view, guard=guard))
    app.include_router(create_websocket_router(view, max_command_bytes=max_body_bytes, guard=guard))
    app.add_middleware(BodyLimit, limit=max_body_bytes)
    install_problem_handlers(app)
    install_openapi(app, guard)
    return app


def _state_of(pump: Pump | None) -> ServerState:
    if pump is None:
        raise TypeError("create_app needs a pump, a state or a view")
    return ServerState(pump)


def _lifespan(state: ServerState | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if state is not None:
            state.open()
            state.set_running()
        yield
        if state is not None:
            state.set_stopped()
            state.close()

    return lifespan
