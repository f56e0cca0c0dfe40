"""The bus as the rest of the system sees it: shaped for batches, the same in memory and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from xml_pipeline.message_bus.topology import Binding, Topology


class Published(StrEnum):
    """What became of one publish. A timeout or a lost connection is `UNKNOWN`, never a failure."""

    CONFIRMED = "confirmed"
    UNROUTABLE = "unroutable"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish; `mandatory` always, persistent unless said otherwise."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str | int] = field(default_factory=dict)
    persistent: bool = True
    correlation_id: str | None = None
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """One delivery. `tag` and `epoch` are the consumer's own; pass the object back to ack or reject it."""

    tag: int
    epoch: int
    queue: str
    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str | int]
    redelivered: bool
    correlation_id: str | None = None
    reply_to: str | None = None


class Consumer(Protocol):
    """A subscription to one queue with bounded prefetch. It survives reconnects by itself."""

    async def batch(self, limit: int) -> Sequence[Incoming]:
        """Wait for at least one delivery, then return all that have arrived, at most `limit`."""
        ...

    async def ack(self, deliveries: Sequence[Incoming]) -> None:
        """Acknowledge. Deliveries of a lost connection are ignored: the broker delivers them again."""
        ...

    async def reject(self, deliveries: Sequence[Incoming], *, requeue: bool) -> None:
        """Give back to the queue, or, with `requeue=False`, dead-letter."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the broker is known to deliver to this consumer now."""
        ...

    @property
    def reply_address(self) -> str:
        """The name of the queue, to be used as `reply_to`; changes when a queue of one's own is made again."""
        ...

    async def stop(self) -> None:
        """Take no more: what has arrived and no batch has taken goes back now; what was taken can still be acked."""
        ...

    async def close(self) -> None:
        """Stop consuming; what was not acked goes back to the queue."""
        ...


class Bus(Protocol):
    """Publish and consume in batches."""

    async def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings; idempotent; raises BrokerUnavailable."""
        ...

    async def publish(self, messages: Sequence[Outgoing], *, timeout: float = 5.0) -> list[Published]:
        """Publish many, wait for their confirms at most `timeout` seconds, tell the outcome of each, in order.

        Never raises for a broker that is gone: every outcome is then `UNKNOWN`.
        """
        ...

    async def consume(self, queue: str, *, prefetch: int) -> Consumer:
        """Subscribe to a queue that is declared."""
        ...

    async def subscribe(self, bindings: Sequence[Binding], *, prefetch: int = 1000) -> Consumer:
        """Subscribe with a queue of one's own, exclusive and gone with the connection, made again on reconnect.

        What arrives on it counts as acked. Others reach it through the default exchange by its `reply_address`.
        """
        ...

    async def depth(self, queue: str) -> int | None:
        """Messages ready in a queue, None where it does not exist or the broker is gone."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the broker answers now."""
        ...

    async def close(self) -> None:
        """Close all connections; idempotent. Acks that were said before are with the broker, if it answers."""
        ...
