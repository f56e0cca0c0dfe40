"""Exchanges, queues and bindings of an organism, as data. Works on RabbitMQ 3.10 and 4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Out of reach: attempts are counted in PostgreSQL, and -1 drops at the first requeue on RabbitMQ 3.10.
DELIVERY_LIMIT = 1_000_000
# A subscriber that does not keep up loses the oldest of what waits in its own queue; nothing grows without bound.
OWN_QUEUE_MAX_LENGTH = 100_000
OWN_QUEUE_MAX_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where messages are published, other than straight to a queue."""

    name: str
    kind: str  # direct, topic, fanout
    durable: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    """A work queue: a quorum queue where `quorum`, dead-lettering to `dead_exchange`."""

    name: str
    quorum: bool = True
    dead_exchange: str | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """What a queue gets of an exchange: the messages under a key, or a topic pattern."""

    exchange: str
    queue: str  # "" in `Bus.subscribe`: the subscriber's own queue
    key: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """All that is declared together."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The names on the broker of one organism.

    Routers and usage services reach queues through the default exchange, by which one reaches them all. Who is to reach
    one queue alone, gateways and agent-workers, publishes through its door.
    """

    organism: str

    @property
    def ingress(self) -> str:
        """The queue of injects and turns, which routers read."""
        return f"{self.organism}.ingress"

    def agent(self, listener: str) -> str:
        """The queue of one listener's assignments."""
        return f"{self.organism}.agent.{listener}"

    @property
    def usage(self) -> str:
        """The queue of hold requests and usage events, which the ledger reads."""
        return f"{self.organism}.usage"

    @property
    def ingress_door(self) -> str:
        """The exchange that leads to ingress, and nowhere else."""
        return f"{self.organism}.door.ingress"

    @property
    def usage_door(self) -> str:
        """The exchange that leads to the ledger's queue, and nowhere else."""
        return f"{self.organism}.door.usage"

    @property
    def events(self) -> str:
        """The topic exchange of the live feed and heartbeats."""
        return f"{self.organism}.events"

    @property
    def control(self) -> str:
        """The fanout exchange of hints."""
        return f"{self.organism}.control"

    @property
    def dead(self) -> str:
        """The exchange and the queue of what was rejected."""
        return f"{self.organism}.dead"


def organism_topology(organism: str, listeners: Iterable[str]) -> Topology:
    """Everything an organism needs on the broker, for these listeners."""
    names = Names(organism)
    work = [names.ingress, names.usage, *(names.agent(listener) for listener in listeners)]
    return Topology(
        exchanges=(
            Exchange(names.events, "topic"),
            Exchange(names.control, "fanout"),
            Exchange(names.dead, "fanout"),
            Exchange(names.ingress_door, "fanout"),
            Exchange(names.usage_door, "fanout"),
        ),
        queues=(*(Queue(name, dead_exchange=names.dead) for name in work), Queue(names.dead)),
        bindings=(
            Binding(names.dead, names.dead),
            Binding(names.ingress_door, names.ingress),
            Binding(names.usage_door, names.usage),
        ),
    )


def merge(first: Topology, second: Topology) -> Topology:
    """Both together, each part once, in the order in which it was first named."""
    return Topology(
        exchanges=tuple(dict.fromkeys(first.exchanges + second.exchanges)),
        queues=tuple(dict.fromkeys(first.queues + second.queues)),
        bindings=tuple(dict.fromkeys(first.bindings + second.bindings)),
    )
