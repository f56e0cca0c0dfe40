"""Spans as OpenTelemetry exports them: in batches, from a thread of its own. No other module speaks OpenTelemetry."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context

from xml_pipeline.stopping import TRACES
from xml_pipeline.tracing.port import Span

log = structlog.get_logger(__name__)

_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtelTracing:
    """Exports the spans of one service. What the OTEL_* variables say of resource, sampler and batches counts."""

    on = True

    def __init__(self, resource: dict[str, str], exporter: SpanExporter | None = None) -> None:
        """`resource`: what the spans are of, where OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME do not say it."""
        known = Resource.create(dict(resource)).merge(OTELResourceDetector().detect())
        self._ids = _GivenIds()
        self._provider = TracerProvider(resource=known, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Telling(exporter or OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("xml_pipeline")

    def sampled(self, trace_id: int) -> bool:
        """What the sampler says of the root of a trace: no service has to be told by another."""
        result = self._provider.sampler.should_sample(None, trace_id, "thread")
        return result.decision is Decision.RECORD_AND_SAMPLE

    def tell(self, spans: Iterable[Span]) -> None:
        """Hand them to the exporter's thread; when it is too far behind, the oldest are dropped."""
        for span in spans:
            self._tell(span)

    async def close(self) -> None:
        """Export what is left, and wait for that no longer than `stopping.TRACES`."""
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(closed.set)

        # A thread that nobody waits for: the exporter may hang as long as its collector does.
        threading.Thread(target=close, daemon=True, name="traces-close").start()
        try:
            async with asyncio.timeout(TRACES):
                await closed.wait()
        except TimeoutError:
            log.warning("traces_given_up", seconds=TRACES)

    def _tell(self, span: Span) -> None:
        sampled = self.sampled(span.trace_id) if span.sampled is None else span.sampled
        if not sampled:
            return
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        told = self._tracer.start_span(
            span.name,
            _under(span),
            _KINDS[span.kind.value],
            dict(span.attributes),
            [Link(_context(link.trace_id, link.span_id)) for link in span.links],
            span.start_ns,
        )
        if span.error is not None:
            told.set_status(Status(StatusCode.ERROR, span.error))
        told.end(span.end_ns)


class _GivenIds(IdGenerator):
    """The ids of the span that is told next."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Telling(SpanExporter):
    """Says once when spans do not get through, and once when they do again; the library would say it each time."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self._failing:
            log.warning("traces_not_exported", spans=len(spans))
        elif self._failing and not failed:
            log.info("traces_exported_again")
        self._failing = failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _under(span: Span) -> Context:
    if span.parent_id is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(_context(span.trace_id, span.parent_id)), Context())


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=_SAMPLED)
