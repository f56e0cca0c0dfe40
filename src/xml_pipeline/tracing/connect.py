"""Whether spans are exported, by the standard OTEL_* variables: off where none of them asks for it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import structlog

from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Whether an endpoint is named, or the exporter `otlp`, and nothing says that there are to be none."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter not in ("", "otlp"):
        return False
    return exporter == "otlp" or any(environment.get(name) for name in _ENDPOINTS)


def connect_tracing(service: str, instance: str, organism: str, environment: Mapping[str, str] = os.environ) -> Tracing:
    """The exporter of a service. It does not wait for its collector, and never fails the service."""
    if not wants_traces(environment):
        return OFF
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        log.warning("traces_protocol_ignored", asked=protocol, used=_PROTOCOL)
    try:
        # Here, since it is an extra, and takes its time to import.
        from xml_pipeline.tracing.otel import OtelTracing
    except ImportError as error:
        log.warning("traces_need_the_extra", missing=error.name, do="pip install 'xml-pipeline[otel]'")
        return OFF
    resource = {"service.name": service, "service.namespace": organism, "service.instance.id": instance}
    tracing = OtelTracing(resource)
    log.info("traces_on")
    return tracing
