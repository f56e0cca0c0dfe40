"""Accepting injects: many concurrent requests share one transaction, and each is answered when that is committed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from xml_pipeline.errors import DatabaseUnavailable, Unavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import rest
from xml_pipeline.server.live.backlog import KnownBacklog
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.live.limits import ANSWER_WITHIN, BATCH, BATCH_BYTES, MOST_WAITING, MOST_WAITING_BYTES
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.storage import inbox
from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

_TRIES = 5
# What two transactions do to each other; the whole batch again is right.
_CONFLICTS = ("40001", "40P01", "23505")
# Somebody holds the lock of a thread, for longer than anybody does who goes on. A deadlock is found before.
_LOCKED = "55P03"
_LOCK_WAIT = text("set local lock_timeout = '1500ms'")


@dataclass(slots=True, eq=False)
class _Waiting:
    row: inbox.Inject
    answer: asyncio.Future[inbox.Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Injector:
    """Collects what waits, commits it at once, answers all. One batch is under way at a time.

    `answer_within`: seconds that a caller waits, however the batches before its own fare.
    """

    def __init__(
        self,
        db: Database,
        current: Current,
        metrics: GatewayMetrics,
        *,
        answer_within: float = ANSWER_WITHIN,
    ) -> None:
        self._db = db
        self._metrics = metrics
        self._answer_within = answer_within
        self._backlog = KnownBacklog(current)
        self._queue: OrderedDict[_Waiting, None] = OrderedDict()
        self._queued_bytes = 0
        self._wake = asyncio.Event()

    async def accept(self, row: inbox.Inject) -> inbox.Answer:
        """Return once it is committed, or refused.

        Raises Unavailable: then whether it was accepted is not known, and the same key tells.
        """
        began = time.monotonic()
        try:
            answer = await self._accept(row)
        except Unavailable:
            self._metrics.unavailable(row)
            raise
        self._metrics.decided(row, answer, time.monotonic() - began)
        return answer

    async def _accept(self, row: inbox.Inject) -> inbox.Answer:
        waiting = self._enter(row)
        try:
            await asyncio.wait([waiting.answer], timeout=self._answer_within)
            if not waiting.answer.done():
                raise DatabaseUnavailable(f"an inject was not committed within {self._answer_within:g} seconds")
            return waiting.answer.result()
        finally:
            # Nobody waits for it any more: what is not in a batch by now enters none.
            self._leave(waiting)

    async def run(self) -> None:
        """Serve until cancelled; whoever waits then is told that it is over."""
        batch: list[_Waiting] = []
        try:
            while True:
                await rest(self._wake.wait())
                batch = self._collect()
                if batch:
                    await self._commit(batch)
        finally:
            _fail_all((*batch, *self._queue), Unavailable("the gateway is stopping"))
            self._queue.clear()

    def _enter(self, row: inbox.Inject) -> _Waiting:
        if len(self._queue) >= MOST_WAITING or self._queued_bytes >= MOST_WAITING_BYTES:
            raise Unavailable("too many injects wait for the database")
        waiting = _Waiting(row)
        self._queue[waiting] = None
        self._queued_bytes += len(row.body)
        self._wake.set()
        return waiting

    def _leave(self, waiting: _Waiting) -> None:
        if waiting in self._queue:
            del self._queue[waiting]
            self._queued_bytes -= len(waiting.row.body)
        waiting.answer.cancel()

    def _collect(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            waiting, _ = self._queue.popitem(last=False)
            batch.append(waiting)
            size += len(waiting.row.body)
        self._queued_bytes -= size
        if not self._queue:
            self._wake.clear()
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._store([waiting.row for waiting in batch])
        except Unavailable as error:
            _fail_all(batch, error)
        except Exception as error:
            # Whatever it is: whoever waits is told, and the next batch is served.
            if _sqlstate(error) == _LOCKED:
                error = await self._without_locked(batch)
            await self._isolate([waiting for waiting in batch if not waiting.answer.done()], error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _store(self, rows: Sequence[inbox.Inject]) -> list[inbox.Answer]:
        for _ in range(_TRIES - 1):
            try:
                return await self._store_once(rows)
            except DBAPIError as error:
                if _sqlstate(error) not in _CONFLICTS:
                    raise
                log.info("injects.again", count=len(rows))
        return await self._store_once(rows)

    async def _store_once(self, rows: Sequence[inbox.Inject]) -> list[inbox.Answer]:
        async with self._db.begin() as connection:
            await connection.execute(_LOCK_WAIT)
            answers = await inbox.accept(connection, rows, await self._backlog.get(connection))
            failpoint("gateway.before-commit")
        failpoint("gateway.after-commit")
        accepted = [isinstance(answer, inbox.Accepted) and not answer.repeated for answer in answers]
        self._backlog.add(row.to_id for row, new in zip(rows, accepted, strict=True) if new)
        return answers

    async def _without_locked(self, batch: Sequence[_Waiting]) -> Unavailable:
        """A suspended router must not hold up those who have nothing to do with what it has in hand."""
        error = DatabaseUnavailable("its thread is locked by somebody who does not go on")
        try:
            async with self._db.begin() as connection:
                locked = await inbox.locked_threads(connection, {waiting.row.thread_id for waiting in batch})
        except DatabaseUnavailable as gone:
            _fail_all(batch, gone)
            return gone
        held = [waiting for waiting in batch if waiting.row.thread_id in locked]
        log.warning("injects.locked", threads=len(locked), count=len(held))
        _fail_all(held, error)
        if held and len(held) < len(batch):
            await self._commit([waiting for waiting in batch if waiting not in held])
        return error

    async def _isolate(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """One bad row must not fail its neighbours: halve until it is alone."""
        if not batch:
            return
        if len(batch) == 1:
            log.error("inject.failed", message_id=str(batch[0].row.id), exc_info=error)
            _fail(batch[0], error)
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])


def _sqlstate(error: Exception) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def _fail_all(batch: Iterable[_Waiting], error: Exception) -> None:
    for waiting in batch:
        _fail(waiting, error)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
