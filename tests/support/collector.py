"""A collector of traces: takes what is exported over OTLP/HTTP, and keeps each span."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported


@dataclass(frozen=True, slots=True)
class Collected:
    """One span as it arrived; `parent_id` 0: a root. `resource`: what it is a span of."""

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    links: tuple[tuple[int, int], ...]
    error: str | None
    resource: Mapping[str, Any]

    @property
    def service(self) -> str:
        """Who told it."""
        return str(self.resource["service.name"])


@dataclass(slots=True)
class Collector:
    """Where it listens, what arrived, and the bytes in which it did. It answers with `status`."""

    url: str
    spans: list[Collected] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    status: int = 200

    @property
    def environment(self) -> dict[str, str]:
        """What has a service export to it, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}

    def of_trace(self, trace_id: int) -> dict[int, Collected]:
        """The spans of one trace, by id."""
        return {span.span_id: span for span in tuple(self.spans) if span.trace_id == trace_id}

    def take(self, body: bytes) -> None:
        """Keep what was exported."""
        self.bodies.append(body)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_collected(span, resource) for span in of_scope.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen while inside."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.status == 200:
                collector.take(body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _collected(span: Exported, resource: Mapping[str, Any]) -> Collected:
    return Collected(
        trace_id=int.from_bytes(span.trace_id, "big"),
        span_id=int.from_bytes(span.span_id, "big"),
        parent_id=int.from_bytes(span.parent_span_id, "big"),
        name=span.name,
        kind=Exported.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links=tuple((int.from_bytes(link.trace_id, "big"), int.from_bytes(link.span_id, "big")) for link in span.links),
        error=span.status.message if span.status.code == 2 else None,
        resource=resource,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in _typed(attributes)}


def _typed(attributes: Any) -> list[KeyValue]:
    return list(attributes)


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value") or "string_value")
