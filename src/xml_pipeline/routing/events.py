"""What one committed transaction changed, as events of the live feed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from xml_pipeline.routing.transaction import Routed
from xml_pipeline.routing.windows import Fill
from xml_pipeline.storage.routing_rows import NewMessage

Event = dict[str, object]


def feed_events(routed: Routed) -> list[Event]:
    """Messages in the order of their slots, then what became of threads, then agents, then errors."""
    return [*_messages(routed), *_threads(routed), *agent_events(routed.fill, ended_of(routed)), *_errors(routed)]


def agent_events(fill: Fill, ended: Counter[str]) -> Iterator[Event]:
    """Listeners that began or ended to work, or were handed something. `ended`: how many of each are out no more."""
    released = Counter(message.to_id for message in fill.released)
    current = {message.to_id: str(message.thread_id) for message in fill.released}
    for name, out_before in fill.out_before.items():
        if released[name]:
            yield {"event": "agent_state", "agent": name, "state": "processing", "currentThread": current[name]}
        elif out_before == 0 and ended[name]:
            yield {"event": "agent_state", "agent": name, "state": "idle", "currentThread": None}


def ended_of(routed: Routed) -> Counter[str]:
    """How many messages of each listener this transaction took out of its window."""
    changes, messages = routed.decision.changes, routed.snapshot.messages
    handled = [closing.message_id for closing in changes.closings]
    handled += [postponement.message_id for postponement in changes.postponements]
    return Counter(messages[id_].to_id for id_ in handled if messages[id_].state == "out")


def _messages(routed: Routed) -> Iterator[Event]:
    for message in routed.decision.changes.inserts:
        yield _message_event(message, routed.inserted[message.id])


def _message_event(message: NewMessage, created_at: datetime) -> Event:
    return {
        "event": "message",
        "id": str(message.id),
        "threadId": str(message.thread_id),
        "from": message.from_id,
        "to": message.to_id,
        "payloadType": message.payload_type,
        "payloadXml": message.body.decode(),
        "timestamp": created_at.isoformat(),
        "slotIndex": message.slot,
        "kind": message.kind,
        "answers": None if message.answers is None else str(message.answers),
    }


def _threads(routed: Routed) -> Iterator[Event]:
    for thread in routed.threads.values():
        before = routed.snapshot.threads[thread.id]
        if (thread.status, thread.slots) != (before.status, before.slots):
            yield {
                "event": "thread_updated",
                "threadId": str(thread.id),
                "status": thread.status,
                "messageCount": thread.slots,
            }


def _errors(routed: Routed) -> Iterator[Event]:
    now = max(routed.inserted.values(), default=None)
    for mishap in routed.decision.mishaps:
        yield {
            "event": "error",
            "threadId": str(mishap.thread_id),
            "agent": mishap.agent,
            "error": mishap.error,
            "timestamp": None if now is None else now.isoformat(),
        }
