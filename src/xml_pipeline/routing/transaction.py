"""The routing transaction in its six steps. Their order is what makes several routers safe under READ COMMITTED."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.decisions import Decision, decide
from xml_pipeline.routing.items import Inject, Item, Junk, Orphaned, Overdue, Returned, TurnReport
from xml_pipeline.routing.store import RoutingStore
from xml_pipeline.routing.windows import Fill, fill_windows
from xml_pipeline.routing.working import PayloadCheck
from xml_pipeline.storage.routing_rows import BatchKeys, Changes, Sent, Snapshot, ThreadRow


class BatchConflict(Exception):
    """What was written is not what was read: somebody came in between. The whole batch again."""


class Undecidable(Exception):
    """The items fit nothing that was foreseen: one of them is to blame, not the database."""


@dataclass(frozen=True, slots=True)
class Routed:
    """All that one transaction did: to be published once it is committed."""

    snapshot: Snapshot
    decision: Decision
    inserted: Mapping[UUID, datetime]
    threads: Mapping[UUID, ThreadRow]
    fill: Fill


@dataclass(slots=True)
class _Written:
    inserted: Mapping[UUID, datetime] = field(default_factory=dict)
    threads: Mapping[UUID, ThreadRow] = field(default_factory=dict)


async def route(
    store: RoutingStore, items: Sequence[Item], organism: Organism, check: PayloadCheck, sent: Sequence[Sent] = ()
) -> Routed:
    """Run the statements of one batch; the caller begins and commits. Raises BatchConflict."""
    keys = keys_of(items)
    threads = await store.lock_threads(await store.resolve(keys))
    snapshot = await store.read(keys, threads)
    _require_locked(snapshot)
    decision = _decide(snapshot, items, organism, check)
    written = await _write(store, decision.changes, snapshot)
    await store.promote(decision.changes.mailboxes)
    fill = await fill_windows(store, decision.changes.listeners, organism)
    await store.note_sent(sent)
    return Routed(snapshot, decision, written.inserted, written.threads, fill)


def _decide(snapshot: Snapshot, items: Sequence[Item], organism: Organism, check: PayloadCheck) -> Decision:
    try:
        return decide(snapshot, items, organism, check)
    except Exception as error:
        raise Undecidable(f"{type(error).__name__}: {error}") from error


def keys_of(items: Sequence[Item]) -> BatchKeys:
    """What a batch speaks of."""
    messages: dict[UUID, None] = {}
    inbox: dict[UUID, None] = {}
    turns: dict[UUID, None] = {}
    for item in items:
        match item:
            case TurnReport(turn=turn):
                messages[turn.message_id] = None
                turns[turn.id] = None
            case Overdue() | Returned() | Orphaned():
                messages[item.message_id] = None
            case Inject():
                inbox[item.message_id] = None
            case Junk(inbox_id=UUID() as inbox_id):
                inbox[inbox_id] = None
            case Junk():
                pass
    return BatchKeys(tuple(messages), tuple(inbox), tuple(turns))


async def _write(store: RoutingStore, changes: Changes, snapshot: Snapshot) -> _Written:
    deltas: Counter[UUID] = Counter()
    await _close(store, changes, snapshot, deltas)
    inserted = await _insert(store, changes, deltas)
    await store.save_calls(changes.new_calls, changes.changed_calls)
    threads = await store.save_threads(changes.threads, deltas)
    _require(all(threads[row.id].open == row.open for row in changes.threads), "open counters")
    await store.record(changes.turns, changes.dead_letters, changes.audits)
    return _Written(inserted, threads)


async def _close(store: RoutingStore, changes: Changes, snapshot: Snapshot, deltas: Counter[UUID]) -> None:
    closed = await store.close(changes.closings)
    _require(closed == {closing.message_id for closing in changes.closings}, "closed messages")
    deltas.subtract(snapshot.messages[message_id].thread_id for message_id in closed)
    postponed = await store.postpone(changes.postponements)
    _require(postponed == {postponement.message_id for postponement in changes.postponements}, "postponed messages")
    parked = await store.park(changes.parkings)
    _require(parked == {parking.message_id for parking in changes.parkings}, "parked messages")
    await store.give_back(changes.returned)
    taken = await store.take(changes.taken)
    _require(taken == set(changes.taken), "inbox rows")
    deltas.subtract(snapshot.inbox[inbox_id].thread_id for inbox_id in taken)


async def _insert(store: RoutingStore, changes: Changes, deltas: Counter[UUID]) -> Mapping[UUID, datetime]:
    inserted = await store.insert(changes.inserts)
    _require(len(inserted) == len(changes.inserts), "inserted messages")
    deltas.update(message.thread_id for message in changes.inserts if message.outcome is None)
    return inserted


def _require_locked(snapshot: Snapshot) -> None:
    threads = {row.thread_id for row in snapshot.messages.values()} | {row.thread_id for row in snapshot.inbox.values()}
    _require(threads <= snapshot.threads.keys(), "threads")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BatchConflict(f"{what} are not as they were read")
