"""What each service may do on the broker, as data: no more than it needs, as far as RabbitMQ can say it.

RabbitMQ knows three rights on exchanges and queues, each a pattern of their names: `configure` makes and deletes,
`write` publishes to an exchange or binds a queue, `read` consumes a queue or binds to an exchange. Who may write to the
default exchange reaches every queue of the virtual host. Rights on a topic exchange may be narrowed by routing key.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from xml_pipeline.message_bus.topology import Names

SERVICES = ("gateway", "router", "usage", "agent-worker")
NOTHING = "^$"
# Queues of one's own get such a name from the broker; they are exclusive, so nobody else can use them.
_OWN = r"amq\.gen-.*"
# The default exchange, as permissions name it.
_ANY_QUEUE = r"amq\.default"


@dataclass(frozen=True, slots=True)
class TopicRights:
    """By routing key, for one topic exchange."""

    exchange: str
    write: str = NOTHING
    read: str = NOTHING


@dataclass(frozen=True, slots=True)
class BrokerRights:
    """Patterns of names, within one virtual host."""

    configure: str
    write: str
    read: str
    topic: TopicRights


def rights_of(service: str, organism: str, listeners: Collection[str] | None = None) -> BrokerRights:
    """The rights of a service's user. `listeners`: of an agent-worker that serves these alone; None: all.

    Raises ValueError for a service that there is not.
    """
    names = Names(organism)
    match service:
        case "gateway":
            return _gateway(names)
        case "router":
            return _router(names)
        case "usage":
            return _usage(names)
        case "agent-worker":
            return _agent_worker(names, listeners)
    raise ValueError(f"there is no service {service}")


def _gateway(names: Names) -> BrokerRights:
    """It passes injects on, tells and hears the feed, and gives hints."""
    events, control = _exact(names.events), _exact(names.control)
    return BrokerRights(
        configure=_pattern(_OWN),
        write=_pattern(_OWN, _exact(names.ingress_door), events, control),
        read=_pattern(_OWN, events, control),
        topic=TopicRights(
            names.events, write=_pattern(r"(feed|heartbeat)\.gateway"), read=_pattern(r"(feed|heartbeat)\.\*")
        ),
    )


def _router(names: Names) -> BrokerRights:
    """It makes what the organism has on the broker, and makes it again; it hands out assignments."""
    everything = rf"{re.escape(names.organism)}\..*"
    return BrokerRights(
        configure=_pattern(_OWN, everything),
        write=_pattern(_OWN, _ANY_QUEUE, everything),
        read=_pattern(_OWN, everything),
        topic=TopicRights(
            names.events, write=_pattern(r"(feed|heartbeat)\.router"), read=_pattern(r"heartbeat\.agent-worker")
        ),
    )


def _usage(names: Names) -> BrokerRights:
    """It reads its queue, and replies to queues whose names the broker made up."""
    return BrokerRights(
        configure=NOTHING,
        write=_pattern(_ANY_QUEUE, _exact(names.events), _exact(names.control)),
        read=_pattern(_exact(names.usage)),
        topic=TopicRights(names.events, write=_pattern(r"(feed|heartbeat)\.usage")),
    )


def _agent_worker(names: Names, listeners: Collection[str] | None) -> BrokerRights:
    """It reads assignments and hints; it says turns, what it used, and that it is alive."""
    own = [rf"{_exact(names.agent(''))}.+"] if listeners is None else [_exact(names.agent(name)) for name in listeners]
    doors = (_exact(names.ingress_door), _exact(names.usage_door))
    return BrokerRights(
        configure=_pattern(_OWN),
        write=_pattern(_OWN, *doors, _exact(names.events)),
        read=_pattern(_OWN, _exact(names.control), *own),
        topic=TopicRights(names.events, write=_pattern(r"heartbeat\.agent-worker")),
    )


def _exact(name: str) -> str:
    return re.escape(name)


def _pattern(*parts: str) -> str:
    return f"^({'|'.join(parts)})$"
