"""Filling windows by their level: what is out, what is due, who is paused; never by what has just happened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.store import WindowStore
from xml_pipeline.storage.routing_rows import ListenerRow, Released, Room

# What a turn may take beyond its handler's timeout: the way to the worker and back, and a place in its queue. Seconds.
DEADLINE_MARGIN = 5.0
UNKNOWN_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Fill:
    """What filling did. `out_before`: how many of each locked listener were out before it."""

    released: Sequence[Released]
    out_before: Mapping[str, int]


NO_FILL = Fill((), {})


async def fill_windows(store: WindowStore, names: Collection[str], organism: Organism) -> Fill:
    """Lock these listeners in name order and let out as much as their windows hold."""
    if not names:
        return NO_FILL
    listeners = await store.lock_listeners(names)
    locked = [listener.name for listener in listeners]
    out = await store.count_out(locked) if locked else {}
    rooms = [room for listener in listeners if (room := _room(listener, out.get(listener.name, 0), organism)).free > 0]
    released = await store.release(rooms) if rooms else []
    return Fill(released, {name: out.get(name, 0) for name in locked})


def deadline_timeout(organism: Organism, name: str) -> float:
    """Seconds from sending until a message counts as overdue."""
    listener = organism.listeners.get(name)
    return (UNKNOWN_TIMEOUT if listener is None else listener.timeout) + DEADLINE_MARGIN


def _room(listener: ListenerRow, out: int, organism: Organism) -> Room:
    free = 0 if listener.paused else max(0, listener.window - out)
    return Room(listener.name, free, listener.is_agent, deadline_timeout(organism, listener.name))
