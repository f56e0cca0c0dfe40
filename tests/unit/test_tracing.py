"""Exporting spans: only where it is asked for, in batches, and never to the harm of the service."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tests.support.collector import Collector, collecting
from tests.support.processes import wait_until
from xml_pipeline.tracing.connect import connect_tracing, wants_traces
from xml_pipeline.tracing.ids import trace_of
from xml_pipeline.tracing.otel import OtelTracing
from xml_pipeline.tracing.port import OFF, Link, Span, SpanKind

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
RESOURCE = {"service.name": "router", "service.namespace": "tested"}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as listening:
        yield listening


def _exporting(collector: Collector) -> OtelTracing:
    return OtelTracing(RESOURCE, OTLPSpanExporter(endpoint=f"{collector.url}/v1/traces", timeout=1))


def _span(span_id: int = 2, parent_id: int | None = None, **more: Any) -> Span:
    return Span("route a", SpanKind.PRODUCER, 1, span_id, parent_id, 10, 20, {"a": "b", "n": 3}, **more)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_it_is_off_unless_the_variables_ask_for_it(environment: Mapping[str, str], wanted: bool) -> None:
    assert wants_traces(environment) is wanted
    if not wanted:
        assert connect_tracing("router", "router-1", "tested", environment) is OFF


def test_without_the_extra_a_service_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("xml_pipeline.tracing.otel"):
            raise ModuleNotFoundError("no", name="opentelemetry")
        return importing(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with structlog.testing.capture_logs() as logs:
        assert connect_tracing("router", "router-1", "tested", ENDPOINT) is OFF
    assert [line["event"] for line in logs] == ["traces_need_the_extra"]


async def test_spans_arrive_as_they_were_told(collector: Collector) -> None:
    tracing = _exporting(collector)
    tracing.tell([_span(), _span(3, 2, links=(Link(8, 9),), error="timeout")])
    wait_until(lambda: len(collector.spans) == 2, timeout=20, what="both spans")
    await tracing.close()
    root, child = collector.spans
    assert (root.trace_id, root.span_id, root.parent_id, root.name, root.kind) == (1, 2, 0, "route a", "producer")
    assert (root.start_ns, root.end_ns, root.attributes, root.error) == (10, 20, {"a": "b", "n": 3}, None)
    assert (child.span_id, child.parent_id, child.links, child.error) == (3, 2, ((8, 9),), "timeout")
    assert (root.service, root.resource["service.namespace"]) == ("router", "tested")


async def test_what_the_variables_say_of_the_resource_wins(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    tracing = _exporting(collector)
    tracing.tell([_span()])
    wait_until(lambda: bool(collector.spans), timeout=20, what="the span")
    await tracing.close()
    resource = collector.spans[0].resource
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("mine", "test")


async def test_a_trace_is_sampled_as_a_whole(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    tracing = _exporting(collector)
    traces = [trace_of(UUID(int=number)) for number in range(200)]
    chosen = {trace for trace in traces if tracing.sampled(trace)}
    assert 20 < len(chosen) < 80
    tracing.tell(
        Span("s", SpanKind.INTERNAL, t, id_, parent, 1, 2) for t in traces for id_, parent in ((2, None), (3, 2))
    )
    wait_until(lambda: len(collector.spans) == 2 * len(chosen), timeout=20, what="all spans of the chosen ones")
    await tracing.close()
    assert {span.trace_id for span in collector.spans} == chosen


async def test_a_client_that_records_nothing_gets_no_span(collector: Collector) -> None:
    tracing = _exporting(collector)
    tracing.tell([_span(2, 7, sampled=False), _span(3, 7, sampled=True)])
    wait_until(lambda: bool(collector.spans), timeout=20, what="the span")
    await tracing.close()
    assert [span.span_id for span in collector.spans] == [3]


async def test_a_stop_exports_what_is_left(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    tracing = _exporting(collector)
    tracing.tell([_span()])
    await tracing.close()
    wait_until(lambda: bool(collector.spans), timeout=20, what="the span")


class _Hanging(SpanExporter):
    """A collector that takes a connection, and nothing else."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.reached = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.reached.set()
        self.release.wait()
        return SpanExportResult.SUCCESS


async def test_a_collector_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32")
    exporter = _Hanging()
    tracing = OtelTracing(RESOURCE, exporter)
    tracing.tell(_span(number) for number in range(1, 1000))
    wait_until(exporter.reached.is_set, timeout=20, what="an export")
    with structlog.testing.capture_logs() as logs:
        await tracing.close()
    assert not exporter.release.is_set()
    assert "traces_given_up" in [line["event"] for line in logs]
    exporter.release.set()


class _Failing(SpanExporter):
    """A collector that comes and goes."""

    def __init__(self, answers: Sequence[SpanExportResult]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked += 1
        return self._answers.pop(0)


async def test_what_does_not_get_through_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = SpanExportResult.FAILURE, SpanExportResult.SUCCESS
    exporter = _Failing([good, bad, bad, bad, good, good])
    tracing = OtelTracing(RESOURCE, exporter)
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 7):
            tracing.tell([_span(number)])
            wait_until(lambda n=number: exporter.asked == n, timeout=20, what="an export")  # type: ignore[misc]
        await tracing.close()
    assert [line["event"] for line in logs] == ["traces_not_exported", "traces_exported_again"]
