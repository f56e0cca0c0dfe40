"""`GET /metrics`, for the ops port."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from xml_pipeline.metrics.registry import Metrics

PATH = "/metrics"


def metrics_route(metrics: Metrics) -> Route:
    """Answers Prometheus in the format that it asks for."""

    async def answer(request: Request) -> Response:
        body, content_type = await metrics.told(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Route(PATH, answer)
