"""A broker in this process: exchanges, queues and who reads them. No I/O; all of one event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from xml_pipeline.errors import NotFound, Refused
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import (
    OWN_QUEUE_MAX_BYTES,
    OWN_QUEUE_MAX_LENGTH,
    Binding,
    Exchange,
    Queue,
    Topology,
)

Headers = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message in a queue; `place` keeps the order of the queue when it is given back."""

    place: int
    message: Outgoing
    headers: Headers
    redelivered: bool = False


class Reader(Protocol):
    """A consumer, as its queue sees it."""

    @property
    def free(self) -> int:
        """How many deliveries it may still hold."""

    def deliver(self, stored: Stored) -> None:
        """Take one more delivery."""

    def cancelled(self) -> None:
        """The queue is gone: no more deliveries, and what is held is void."""


@dataclass(slots=True)
class MemoryQueue:
    """The messages of one queue that nobody holds, and its readers in turn."""

    name: str
    dead_exchange: str | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    ready: deque[Stored] = field(default_factory=deque)
    readers: deque[Reader] = field(default_factory=deque)
    _places: int = 0
    _bytes: int = 0

    def append(self, message: Outgoing, headers: Headers) -> None:
        """Put a message at the end; over its length the queue drops its oldest."""
        self._places += 1
        self.ready.append(Stored(self._places, message, headers))
        self._bytes += len(message.body)
        while self._is_too_long():
            self._pop()
        self.dispatch()

    def _is_too_long(self) -> bool:
        return (self.max_length is not None and len(self.ready) > self.max_length) or (
            self.max_bytes is not None and self._bytes > self.max_bytes
        )

    def _pop(self) -> Stored:
        stored = self.ready.popleft()
        self._bytes -= len(stored.message.body)
        return stored

    def give_back(self, returned: list[Stored]) -> None:
        """Put back what a reader held, where it was, as redelivered."""
        again = [replace(stored, redelivered=True) for stored in returned]
        self.ready = deque(sorted([*again, *self.ready], key=lambda stored: stored.place))
        self._bytes += sum(len(stored.message.body) for stored in again)
        self.dispatch()

    def dispatch(self) -> None:
        """Hand out what is ready, one message to each reader with room in turn."""
        while self.ready and (reader := self._next_reader()) is not None:
            reader.deliver(self._pop())

    def _next_reader(self) -> Reader | None:
        for _ in range(len(self.readers)):
            reader = self.readers[0]
            self.readers.rotate(-1)
            if reader.free > 0:
                return reader
        return None


class BrokerState:
    """What a broker knows: made by declarations, changed by publishes; raises Refused for a contradiction, NotFound."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.queues: dict[str, MemoryQueue] = {}
        self._declared: dict[str, Queue] = {}
        self._bindings: dict[str, dict[Binding, None]] = {}

    def declare(self, topology: Topology) -> None:
        """Make what is not there yet."""
        for exchange in topology.exchanges:
            if self.exchanges.setdefault(exchange.name, exchange) != exchange:
                raise Refused(f"exchange {exchange.name} exists with other settings")
        for queue in topology.queues:
            if self._declared.setdefault(queue.name, queue) != queue:
                raise Refused(f"queue {queue.name} exists with other settings")
            self.queues.setdefault(queue.name, MemoryQueue(queue.name, queue.dead_exchange))
        for binding in topology.bindings:
            self.bind(binding)

    def bind(self, binding: Binding) -> None:
        """Let a queue have what an exchange gets under a key."""
        if binding.exchange not in self.exchanges or binding.queue not in self.queues:
            raise NotFound(f"no exchange {binding.exchange} or no queue {binding.queue} to bind")
        self._bindings.setdefault(binding.exchange, {})[binding] = None

    def add_own_queue(self, name: str) -> MemoryQueue:
        """A queue that belongs to one connection."""
        queue = self.queues[name] = MemoryQueue(name, max_length=OWN_QUEUE_MAX_LENGTH, max_bytes=OWN_QUEUE_MAX_BYTES)
        return queue

    def delete_queue(self, name: str) -> None:
        """Remove a queue with what it holds; its readers are told."""
        queue = self.queues.pop(name, None)
        self._declared.pop(name, None)
        for bindings in self._bindings.values():
            for binding in [one for one in bindings if one.queue == name]:
                del bindings[binding]
        for reader in list(queue.readers) if queue else ():
            reader.cancelled()

    def delete_exchange(self, name: str) -> None:
        """Remove an exchange and its bindings."""
        self.exchanges.pop(name, None)
        self._bindings.pop(name, None)

    def publish(self, message: Outgoing, headers: Headers) -> bool:
        """Put a message into every queue it is meant for; whether there was one."""
        queues = list(self._route(message.exchange, message.routing_key))
        for queue in queues:
            queue.append(message, headers)
        return bool(queues)

    def dead_letter(self, queue: MemoryQueue, stored: Stored) -> None:
        """Pass a rejected message on to the queue's dead-letter exchange, if it has one."""
        if queue.dead_exchange is None:
            return
        headers = {
            "x-first-death-exchange": stored.message.exchange,
            "x-first-death-queue": queue.name,
            "x-first-death-reason": "rejected",
            **stored.headers,
        }
        self.publish(replace(stored.message, exchange=queue.dead_exchange), headers)

    def _route(self, exchange: str, key: str) -> Iterator[MemoryQueue]:
        if exchange == "":
            if key in self.queues:
                yield self.queues[key]
            return
        if exchange not in self.exchanges:
            return
        kind = self.exchanges[exchange].kind
        bindings = self._bindings.get(exchange, {})
        names = {one.queue: None for one in bindings if _matches(kind, one.key, key)}
        yield from (self.queues[name] for name in names)


def _matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    if kind == "topic":
        return topic_matches(pattern.split("."), key.split("."))
    return pattern == key


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether words fit a pattern: `*` is exactly one word, `#` any number of them, none included."""
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(topic_matches(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and topic_matches(rest, words[1:])
