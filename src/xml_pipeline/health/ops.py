"""The ops port: where orchestrators ask a service that has no API of its own how it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from xml_pipeline.health.checks import Report
from xml_pipeline.health.health import Health
from xml_pipeline.quiet_server import QuietServer, bind

log = structlog.get_logger(__name__)

_LAST_ANSWERS = 1


def create_ops_app(health: Health, *others: Route) -> Starlette:
    """`GET /livez` and `GET /readyz`: 200 or 503, and why; and what others answer."""
    routes = [Route("/livez", _endpoint(health.alive)), Route("/readyz", _endpoint(health.ready))]
    return Starlette(routes=[*routes, *others])


@asynccontextmanager
async def ops_server(health: Health, host: str, port: int, *others: Route) -> AsyncIterator[int]:
    """Answer as long as the context lasts, on the event loop that is asked about; port 0 takes a free one.

    `others` are routes beside those of `create_ops_app`.

    Yields the port. Raises Unavailable.
    """
    listening = bind(host, port)
    bound: int = listening.getsockname()[1]
    config = uvicorn.Config(
        create_ops_app(health, *others),
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_ANSWERS,
    )
    server = QuietServer(config)
    serving = asyncio.create_task(server.serve_on(listening), name="ops")
    log.info("ops_listening", host=host, port=bound)
    try:
        yield bound
    finally:
        server.should_exit = True
        await asyncio.wait({serving})


def _endpoint(ask: Callable[[], Report]) -> Callable[[Request], JSONResponse]:
    def answer(_: Request) -> JSONResponse:
        report = ask()
        return JSONResponse(report.as_json(), HTTPStatus.OK if report.ok else HTTPStatus.SERVICE_UNAVAILABLE)

    return answer
