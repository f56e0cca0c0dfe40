"""What can be seen of a broker from outside, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from xml_pipeline.message_bus.rights import BrokerRights


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What waits in a queue, and how many read it."""

    ready: int
    consumers: int


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """What AMQP shows. A queue that is not there is None; `blocked`: publishers have to wait, for memory or disk."""

    place: str
    product: str
    version: str
    queues: Mapping[str, QueueFacts | None]
    missing_exchanges: tuple[str, ...]
    blocked: bool


@dataclass(frozen=True, slots=True)
class UserFacts:
    """A user of the broker. `tags`: what it may do in the management plugin, such as `administrator`.

    `rights`: in the virtual host that was asked for, None without any.
    """

    name: str
    tags: tuple[str, ...]
    rights: BrokerRights | None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node of the broker, and which of its resources are used up."""

    name: str
    running: bool
    alarms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ManagementFacts:
    """What the management plugin shows. `users` are those that were asked for and are there; `clock` is to the second.

    `asked_at` is this machine's clock when the broker told its own.
    """

    nodes: tuple[NodeFacts, ...]
    users: Mapping[str, UserFacts]
    clock: datetime | None
    asked_at: datetime
