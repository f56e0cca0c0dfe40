"""What a router reads to tell of it: the backlog in PostgreSQL, the depth of queues on the broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from xml_pipeline.message_bus.port import Bus
from xml_pipeline.metrics.catalogue import BACKLOG, LISTENER_CAPACITY, OLDEST, PAUSED, QUEUE
from xml_pipeline.metrics.labels import known
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.metrics.snapshot import Snapshot
from xml_pipeline.routing.current import Current
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.observing import STATES, ListenerState, Open, read_listeners, read_open


@contextmanager
def observe(metrics: Metrics, bus: Bus, db: Database, current: Current) -> Iterator[None]:
    """In here, read both whenever somebody wants to know."""

    async def backlog() -> list[Reading]:
        async with db.begin() as connection:
            listeners, open_ = await read_listeners(connection), await read_open(connection)
        return [*_of_listeners(listeners), *_of_backlog(listeners, open_)]

    async def queues() -> list[Reading]:
        names = current.configured.names
        agents = {f"agent.{listener}": names.agent(listener) for listener in current.configured.organism.listeners}
        return await _depths(bus, {"ingress": names.ingress, "dead": names.dead, **agents})

    told = BACKLOG, OLDEST, PAUSED, LISTENER_CAPACITY
    with (
        metrics.read_snapshot(told, Snapshot("backlog", backlog)),
        metrics.read_snapshot((QUEUE,), Snapshot("router-queues", queues)),
    ):
        yield


def _of_listeners(listeners: Sequence[ListenerState]) -> Iterator[Reading]:
    for listener in listeners:
        yield Reading(PAUSED, (listener.name,), float(listener.paused))
        yield Reading(LISTENER_CAPACITY, (listener.name,), listener.capacity)


def _of_backlog(listeners: Sequence[ListenerState], open_: Sequence[Open]) -> Iterator[Reading]:
    """Zeros where there is nothing: whoever scales by it must not find it missing."""
    names = {listener.name for listener in listeners}
    counts = {(name, state): 0 for name in names for state in STATES}
    ages = dict.fromkeys(counts, 0.0)
    for one in open_:
        key = known(one.listener, names), one.state
        counts[key] = counts.get(key, 0) + one.count
        ages[key] = max(ages.get(key, 0.0), one.age)
    for key, count in counts.items():
        yield Reading(BACKLOG, key, count)
        yield Reading(OLDEST, key, ages[key])


async def _depths(bus: Bus, queues: dict[str, str]) -> list[Reading]:
    """One after the other: a broker answers one such question of a connection at a time."""
    depths = {label: await bus.depth(queue) for label, queue in queues.items() if bus.connected}
    return [Reading(QUEUE, (label,), depth) for label, depth in depths.items() if depth is not None]
