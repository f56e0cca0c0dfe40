"""Spans as values, told when they are over; and who is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

Attribute = str | int | float | bool


class SpanKind(StrEnum):
    """As OpenTelemetry names them."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


@dataclass(frozen=True, slots=True)
class Link:
    """Another span that this one has to do with."""

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took place. Times are nanoseconds since 1970; `parent_id` None: the root of its trace.

    `error` is a short code, never what somebody said: that may quote a payload. `sampled` None: as the sampler has it.
    """

    name: str
    kind: SpanKind
    trace_id: int
    span_id: int
    parent_id: int | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    error: str | None = None
    sampled: bool | None = None


class Tracing(Protocol):
    """Where a service tells its spans. Nobody waits for it, and nothing fails by it."""

    @property
    def on(self) -> bool:
        """Whether spans go anywhere: else there is no need to make any."""
        ...

    def sampled(self, trace_id: int) -> bool:
        """Whether the spans of a trace are recorded; the same in every service that is set alike."""
        ...

    def tell(self, spans: Iterable[Span]) -> None:
        """Export them soon."""
        ...

    async def close(self) -> None:
        """Export what is left, as long as `stopping.TRACES` allows."""
        ...


class NoTracing:
    """Spans go nowhere."""

    on = False

    def sampled(self, trace_id: int) -> bool:
        """None is."""
        return False

    def tell(self, spans: Iterable[Span]) -> None:
        """Nothing."""

    async def close(self) -> None:
        """Nothing."""


OFF: Tracing = NoTracing()
