"""From a committed transaction to the broker: assignments with confirms, then one frame for the live feed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import structlog

from xml_pipeline.envelope.codec import encode_assignment
from xml_pipeline.envelope.model import Assignment, Envelope, Kind, Reply
from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.message_bus.messages import EventFrame
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.routing.current import Configured
from xml_pipeline.routing.events import Event
from xml_pipeline.routing.traces import parent_of
from xml_pipeline.routing.windows import UNKNOWN_TIMEOUT
from xml_pipeline.storage.routing_rows import Released, Sent
from xml_pipeline.tracing.ids import HEADER, SENT_HEADER
from xml_pipeline.tracing.port import OFF, Tracing

log = structlog.get_logger(__name__)

FEED_KEY = "feed.router"
PUBLISH_TIMEOUT = 5.0


async def publish_released(
    bus: Bus, now: Configured, released: Sequence[Released], tracing: Tracing = OFF
) -> list[Sent]:
    """Publish assignments; returns the confirmed ones. What is not confirmed is published again by a sweep."""
    if not released:
        return []
    failpoint("router.before-publish")
    letters = [_outgoing(now, message, tracing) for message in released]
    outcomes = await bus.publish(letters, timeout=PUBLISH_TIMEOUT)
    failpoint("router.before-confirm")
    if Published.UNROUTABLE in outcomes:
        await declare_again(bus, now)
    confirmed = [message for message, outcome in zip(released, outcomes, strict=True) if outcome is Published.CONFIRMED]
    if len(confirmed) < len(released):
        log.warning("assignments_unconfirmed", count=len(released) - len(confirmed), outcomes=sorted(set(outcomes)))
    return [Sent(message.id, message.attempt) for message in confirmed]


async def publish_events(bus: Bus, now: Configured, events: Iterable[Event]) -> None:
    """Tell the live feed. Nobody waits for it: who missed a frame reads the database."""
    frame = EventFrame(events=tuple(events))
    if frame.events and bus.connected:
        body = frame.model_dump_json().encode()
        await bus.publish([Outgoing(now.names.events, FEED_KEY, body, persistent=False)], timeout=1.0)


async def declare_again(bus: Bus, now: Configured) -> None:
    """Make what somebody deleted."""
    try:
        await bus.declare(now.topology)
    except BrokerUnavailable as error:
        log.warning("topology_not_declared", reason=str(error))


def assignment_of(now: Configured, message: Released, traceparent: str | None = None) -> Assignment:
    """What a worker is told of a message that is out."""
    listener = now.organism.listeners.get(message.to_id)
    return Assignment(
        message_id=message.id,
        attempt=message.attempt,
        kind=Kind(message.kind),
        call=message.call_id,
        config_version=now.version,
        timeout=UNKNOWN_TIMEOUT if listener is None else listener.timeout,
        remaining=message.remaining,
        replies=tuple(Reply(reply.from_id, Kind(reply.kind), reply.body) for reply in message.replies),
        envelope=Envelope(message.from_id, message.to_id, message.thread_id, message.body, traceparent),
    )


def _outgoing(now: Configured, message: Released, tracing: Tracing) -> Outgoing:
    parent = parent_of(message, tracing)
    headers: dict[str, str | int] = {"message-id": str(message.id), "attempt": message.attempt, HEADER: parent}
    if tracing.on:
        headers[SENT_HEADER] = time.time_ns()
    body = encode_assignment(assignment_of(now, message, parent))
    return Outgoing("", now.names.agent(message.to_id), body, headers)
