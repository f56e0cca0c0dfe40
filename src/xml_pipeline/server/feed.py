"""Live events on their way to many clients: serialised once, with a bounded queue for each client."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

from xml_pipeline.server.models import AgentState, ApiModel, MessageInfo, ThreadInfo

QUEUE_LIMIT = 1000
# Characters of JSON that wait for one client, whatever their number.
QUEUE_SIZE_LIMIT = 16 * 1024 * 1024
EVENT_NAMES = frozenset({"message", "agent_state", "thread_created", "thread_updated", "error", "usage", "budget"})


def to_json(value: object) -> str:
    """JSON as it goes over the wire."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def dumped(model: ApiModel) -> dict[str, Any]:
    """A model as a JSON object, camelCase."""
    return model.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class Event:
    """One event: its JSON object, and what subscribers can filter by (empty: it has nothing of that kind)."""

    name: str
    body: Mapping[str, Any]
    agents: frozenset[str] = frozenset()
    threads: frozenset[str] = frozenset()
    payload_type: str | None = None

    @cached_property
    def text(self) -> str:
        """The event as JSON."""
        return to_json(self.body)

    @cached_property
    def message_text(self) -> str:
        """The bare message object of a `message` event as JSON."""
        return to_json(self.body["message"])


def message_event(message: MessageInfo) -> Event:
    """A message was logged."""
    return Event(
        "message",
        {"event": "message", "message": dumped(message)},
        frozenset((message.from_id, message.to_id)),
        frozenset((message.thread_id,)),
        message.payload_type,
    )


def agent_event(agent: str, state: AgentState, current_thread: str | None) -> Event:
    """A listener changed its state."""
    body = {"event": "agent_state", "agent": agent, "state": state.value, "currentThread": current_thread}
    return Event("agent_state", body, frozenset((agent,)), frozenset((current_thread,) if current_thread else ()))


def thread_created_event(thread: ThreadInfo) -> Event:
    """A thread began."""
    body = {"event": "thread_created", "thread": dumped(thread)}
    return Event("thread_created", body, frozenset(thread.participants), frozenset((thread.id,)))


def thread_updated_event(thread_id: str, status: str, message_count: int, agents: Iterable[str] = ()) -> Event:
    """A thread changed its status or grew."""
    body = {"event": "thread_updated", "threadId": thread_id, "status": status, "messageCount": message_count}
    return Event("thread_updated", body, frozenset(agents), frozenset((thread_id,)))


def error_event(thread_id: str | None, agent: str | None, error: str, timestamp: str) -> Event:
    """Something went wrong in a thread."""
    body = {"event": "error", "threadId": thread_id, "agent": agent, "error": error, "timestamp": timestamp}
    return Event("error", body, frozenset((agent,) if agent else ()), frozenset((thread_id,) if thread_id else ()))


def usage_event(name: str, body: Mapping[str, Any]) -> Event:
    """Tokens were used, or a threshold of a budget reached: `usage` or `budget`."""
    agent, thread = body.get("agentId"), body.get("threadId")
    return Event(
        name,
        {**body, "event": name},
        frozenset((str(agent),) if agent else ()),
        frozenset((str(thread),) if thread else ()),
    )


@dataclass(frozen=True, slots=True)
class Filters:
    """What a client wants: None takes all. A filter on something that an event does not have keeps it away."""

    agents: frozenset[str] | None = None
    threads: frozenset[str] | None = None
    payload_types: frozenset[str] | None = None
    events: frozenset[str] | None = None

    def take(self, event: Event) -> bool:
        """Whether the client gets this event."""
        return (
            (self.events is None or event.name in self.events)
            and (self.agents is None or not self.agents.isdisjoint(event.agents))
            and (self.threads is None or not self.threads.isdisjoint(event.threads))
            and (self.payload_types is None or event.payload_type in self.payload_types)
        )


@dataclass(eq=False, slots=True)
class Subscription:
    """One client's queue, bounded in events and characters: once full it takes nothing more, and `lagged` is set."""

    render: Callable[[Event], str | None]
    limit: int = QUEUE_LIMIT
    size_limit: int = QUEUE_SIZE_LIMIT
    filters: Filters = field(default_factory=Filters)
    lagged: asyncio.Event = field(default_factory=asyncio.Event)
    _full: bool = False
    _waiting: deque[tuple[Event, str]] = field(default_factory=deque)
    _size: int = 0
    _lock: Lock = field(default_factory=Lock)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def offer(self, event: Event) -> None:
        """Queue an event, if the client wants it; from any thread."""
        if self._full or not self.filters.take(event):
            return
        text = self.render(event)
        if text is None:
            return
        with self._lock:
            self._full = len(self._waiting) >= self.limit or self._size >= self.size_limit
            if not self._full:
                self._waiting.append((event, text))
                self._size += len(text)
        self._set(self.lagged if self._full else self._wake)

    def _set(self, flag: asyncio.Event) -> None:
        if flag.is_set():
            return
        if _running_loop() is self._loop:
            flag.set()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(flag.set)

    async def wait(self) -> None:
        """Return when there are events to take."""
        while not self._waiting:
            # Cleared before looking: what comes after the look sets it again.
            self._wake.clear()
            if self._waiting:
                return
            await self._wake.wait()

    def take(self) -> list[str]:
        """The events that have arrived, as text; those that the filters of now do not want are left out."""
        with self._lock:
            waiting, self._waiting, self._size = self._waiting, deque(), 0
        return [text for event, text in waiting if self.filters.take(event)]


class Hub:
    """Hands every event to every client. Needs no event loop of its own, and may be used from any thread.

    `queue_limit`: how many events may wait for one client before it is dropped.
    """

    def __init__(self, queue_limit: int = QUEUE_LIMIT) -> None:
        self.queue_limit = queue_limit
        self._subscriptions: set[Subscription] = set()
        self._lock = Lock()

    @property
    def watched(self) -> bool:
        """Whether anybody listens."""
        return bool(self._subscriptions)

    @property
    def count(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    def subscribe(self, render: Callable[[Event], str | None]) -> Subscription:
        """A new client, on the running event loop; `render` gives an event's text, or None to leave it out."""
        subscription = Subscription(render, self.queue_limit)
        with self._lock:
            self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """The client is gone."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def publish(self, event: Event) -> None:
        """Queue the event for everybody who wants it; never waits."""
        with self._lock:
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            subscription.offer(event)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
