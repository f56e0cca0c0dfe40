"""A batch on its way through the database: again when others came in between, split when one item cannot pass."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections.abc import Collection, Sequence
from operator import itemgetter
from uuid import UUID, uuid4

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import beat
from xml_pipeline.logs import log_ids
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.items import Inject, Item, Junk, TurnReport
from xml_pipeline.routing.metrics import RouterMetrics
from xml_pipeline.routing.transaction import BatchConflict, Routed, Undecidable, route
from xml_pipeline.routing.windows import NO_FILL, Fill, fill_windows
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_batch import routing_transaction
from xml_pipeline.storage.routing_rows import Sent, Snapshot

log = structlog.get_logger(__name__)

# Deadlock, serialisation, lock not available: somebody else was quicker.
_AGAIN = frozenset({"40P01", "40001", "55P03"})
# The same, unless it happens each time.
_UNIQUE_VIOLATION = "23505"
# Cardinality, data, integrity, limits: it is what was to be written.
_DATA_CLASSES = ("21", "22", "23", "54")
_MOST_CONFLICTS = 20
_CONFLICT_WAIT = 0.005
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 2.0
# Seconds that a confirm waits before it is noted. A message whose turn came by then is closed: nothing is to be noted.
# Far less than the sweep's patience with what is not confirmed.
_CONFIRM_WAIT = 0.25


class Batches:
    """Runs batches of one router to their end, however long the database is gone."""

    def __init__(
        self,
        db: Database,
        current: Current,
        *,
        confirm_wait: float = _CONFIRM_WAIT,
        metrics: Metrics | None = None,
    ) -> None:
        """`confirm_wait`: seconds that a confirm is not noted, in case that its message's turn comes by then."""
        self._db = db
        self._current = current
        self._confirm_wait = confirm_wait
        self._sent: list[tuple[float, Sent]] = []
        self._metrics = RouterMetrics(metrics or Metrics(), current)

    @property
    def has_unnoted(self) -> bool:
        """Whether confirms wait to be noted by a later batch."""
        return bool(self._sent)

    def note_later(self, sent: Sequence[Sent]) -> None:
        """The broker has confirmed these; a later transaction writes it down, unless their turns have come."""
        now = time.monotonic()
        self._sent.extend((now, one) for one in sent)

    async def run(self, items: Sequence[Item]) -> list[Routed]:
        """Route the items; more than one transaction only where an item had to be set apart.

        Waits for a database that is gone, as long as it takes: cancel to give up.
        """
        if not items:
            return []
        began = time.monotonic()
        done = await self._route(items)
        self._metrics.batch(len(items), time.monotonic() - began)
        return done

    async def _route(self, items: Sequence[Item]) -> list[Routed]:
        conflicts = 0
        while True:
            try:
                return [await self._once(items)]
            except Exception as error:
                if _is_to_blame(error, conflicts):
                    return await self._apart(items, error)
                conflicts += 1
                self._metrics.again("conflict")
                log.info("batch_again", items=len(items), conflicts=conflicts, reason=_name(error))
                await asyncio.sleep(random.random() * _CONFLICT_WAIT * min(conflicts, _MOST_CONFLICTS))  # noqa: S311

    async def note_sent(self) -> None:
        """Write confirms down now. Raises DatabaseUnavailable."""
        confirms = self._take_sent(waited=0.0)
        try:
            async with self._db.begin() as connection, routing_transaction(connection) as store:
                await store.note_sent([sent for _, sent in confirms])
        except BaseException:
            self._sent = confirms + self._sent
            raise

    async def fill(self) -> Fill:
        """Fill the windows of all listeners that have something due. Raises DatabaseUnavailable."""
        async with self._db.begin() as connection, routing_transaction(connection) as store:
            names = await store.listeners_with_work()
            fill = await fill_windows(store, names, self._current.configured.organism) if names else NO_FILL
        self._metrics.released(fill.released)
        return fill

    async def _once(self, items: Sequence[Item]) -> Routed:
        wait = _FIRST_WAIT
        while True:
            try:
                return await self._transaction(items)
            except DatabaseUnavailable as error:
                beat()
                self._metrics.again("held")
                log.warning("batch_held", items=len(items), reason=str(error), wait=wait)
                await asyncio.sleep(wait)
                wait = min(_LONGEST_WAIT, wait * 2)

    async def _transaction(self, items: Sequence[Item]) -> Routed:
        now = self._current.configured
        confirms = self._take_sent(waited=self._confirm_wait)
        try:
            async with self._db.begin() as connection, routing_transaction(connection) as store:
                routed = await route(store, items, now.organism, now.check, [sent for _, sent in confirms])
                failpoint("router.before-commit")
        except BaseException:
            self._sent = confirms + self._sent
            raise
        failpoint("router.after-commit")
        self._metrics.routed(routed)
        self._forget({closing.message_id for closing in routed.decision.changes.closings})
        _log_ends(routed)
        return routed

    async def _apart(self, items: Sequence[Item], error: Exception) -> list[Routed]:
        if len(items) > 1:
            middle = len(items) // 2
            log.warning("batch_split", items=len(items), reason=_name(error))
            self._metrics.again("split")
            return [*await self._route(items[:middle]), *await self._route(items[middle:])]
        culprit = items[0]
        # PostgreSQL's own words may quote the row: its code is enough.
        cause = error if isinstance(error, Undecidable) else None
        log.error("item_refused", item=type(culprit).__name__, reason=_name(error), exc_info=cause, **_ids_of(culprit))
        junk = _as_junk(culprit, error)
        return [] if junk is None else await self._route([junk])

    def _take_sent(self, *, waited: float) -> list[tuple[float, Sent]]:
        """The confirms that have waited so long; they come in the order of their times."""
        limit = time.monotonic() - waited
        count = bisect_right(self._sent, limit, key=itemgetter(0))
        taken, self._sent = self._sent[:count], self._sent[count:]
        return taken

    def _forget(self, closed: Collection[UUID]) -> None:
        self._sent = [(at, sent) for at, sent in self._sent if sent.message_id not in closed]


def _is_to_blame(error: Exception, conflicts: int) -> bool:
    """Whether an item is at fault. What is not known to be one's fault is nobody's: the batch is held."""
    state = sqlstate(error) or ""
    if isinstance(error, BatchConflict) or state == _UNIQUE_VIOLATION:
        return conflicts >= _MOST_CONFLICTS
    return isinstance(error, Undecidable) or state.startswith(_DATA_CLASSES)


def passes_again(error: Exception) -> bool:
    """Whether the database only said that somebody else was quicker."""
    return sqlstate(error) in _AGAIN


def sqlstate(error: Exception) -> str | None:
    """PostgreSQL's code of an error, None for other errors."""
    return getattr(getattr(error, "orig", error), "sqlstate", None)


def _as_junk(item: Item, error: Exception) -> Junk | None:
    """What to keep of an item that cannot be routed; None for junk itself and for the router's own items."""
    reason = f"It could not be routed: {_name(error)}"
    if isinstance(item, TurnReport):
        return Junk(uuid4(), reason, item.body, "unroutable")
    if isinstance(item, Inject):
        return Junk(uuid4(), reason, item.body, "unroutable", item.message_id)
    return None


def _name(error: Exception) -> str:
    return sqlstate(error) or type(error).__name__


def _log_ends(routed: Routed) -> None:
    """What changed nothing, and what ended for good. Never the reasons: they may quote a payload."""
    for letter in routed.decision.changes.dead_letters:
        ids = log_ids(letter.thread_id, letter.message_id)
        log.warning("dead_letter", letter=str(letter.id), code=letter.code, listener=letter.listener, **ids)
    for note in routed.decision.notes:
        ids = log_ids(_thread_of(routed.snapshot, note.message_id), note.message_id)
        log.warning(note.event, detail=note.detail, **ids)


def _thread_of(snapshot: Snapshot, id_: UUID) -> UUID | None:
    """Of a message, an accepted inject or a call; None for what belongs to no thread that is known."""
    row = snapshot.messages.get(id_) or snapshot.inbox.get(id_) or snapshot.calls.get(id_)
    return None if row is None else row.thread_id


def _ids_of(item: Item) -> dict[str, str]:
    match item:
        case TurnReport(turn=turn):
            return log_ids(None, turn.message_id)
        case Junk():
            return log_ids(None, item.inbox_id)
        case _:
            return log_ids(None, item.message_id)
