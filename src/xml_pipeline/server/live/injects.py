"""Accepting injects: many concurrent requests share one transaction, and each is answered when that is committed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4, uuid5

import structlog
from sqlalchemy.exc import DBAPIError

from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope
from xml_pipeline.errors import Unavailable
from xml_pipeline.health.pulse import rest
from xml_pipeline.server.contracts import check_json
from xml_pipeline.server.live.configured import Configured
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.refusals import bad_thread_id, key_used_differently, thread_killed, too_large, unknown_target
from xml_pipeline.server.view import Inject
from xml_pipeline.storage import inbox
from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

_WAITING_LIMIT = 5000
_BATCH = 200
_TRIES = 5
# What two transactions do to each other; the whole batch again is right.
_CONFLICTS = ("40001", "40P01", "23505")
_NAMESPACE = UUID("6f2d8a0e-5b39-5c1c-9f7e-2d0a54b7c3aa")


@dataclass(slots=True)
class _Waiting:
    row: inbox.Inject
    answer: asyncio.Future[inbox.Accepted | inbox.Refusal] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def prepare(inject: Inject, configured: Configured) -> inbox.Inject:
    """Check an inject and write its envelope; raises Problem or InvalidPayload."""
    contract = configured.contracts.get(inject.to)
    if contract is None or contract.payload_type is None:
        raise unknown_target(inject.to)
    given = _thread_id(inject.thread_id)
    check_json(inject.payload)
    payload = contract.payload_type.to_xml(contract.payload_type.from_json(dict(inject.payload)))
    message_id = _message_id(configured.organism.name, inject.key)
    thread_id = given or (uuid5(message_id, "thread") if inject.key else uuid4())
    body = encode_envelope(Envelope(API, inject.to, thread_id, payload))
    limit = configured.organism.limits.max_envelope_bytes
    if len(body) > limit:
        raise too_large(limit)
    return inbox.Inject(message_id, thread_id, inject.to, _digest(inject, given), body)


def refused(refusal: inbox.Refusal, thread_id: UUID) -> Problem:
    """Why the database turned an inject down."""
    return thread_killed(str(thread_id)) if refusal is inbox.Refusal.KILLED else key_used_differently()


class Injector:
    """Collects what waits, commits it at once, answers all."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(_WAITING_LIMIT)

    async def accept(self, row: inbox.Inject) -> inbox.Accepted | inbox.Refusal:
        """Return once it is committed, or refused; raises Unavailable."""
        waiting = _Waiting(row)
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Unavailable("too many injects are waiting") from None
        return await waiting.answer

    async def run(self) -> None:
        """Serve until cancelled; whoever waits then is told that it is over."""
        batch: list[_Waiting] = []
        try:
            while True:
                batch = self._collect(await rest(self._queue.get()))
                await self._commit(batch)
        finally:
            for waiting in (*batch, *self._all()):
                _fail(waiting, Unavailable("the gateway is stopping"))

    def _collect(self, first: _Waiting) -> list[_Waiting]:
        batch = [first]
        while len(batch) < _BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _all(self) -> list[_Waiting]:
        left = []
        while not self._queue.empty():
            left.append(self._queue.get_nowait())
        return left

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = await self._store([waiting.row for waiting in batch])
        except Unavailable as error:
            for waiting in batch:
                _fail(waiting, error)
        except Exception as error:
            # Whatever it is: whoever waits is told, and the next batch is served.
            await self._isolate(batch, error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _store(self, rows: Sequence[inbox.Inject]) -> list[inbox.Accepted | inbox.Refusal]:
        for _ in range(_TRIES - 1):
            try:
                async with self._db.begin() as connection:
                    return await inbox.accept(connection, rows)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _CONFLICTS:
                    raise
                log.info("injects.again", count=len(rows))
        async with self._db.begin() as connection:
            return await inbox.accept(connection, rows)

    async def _isolate(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """One bad row must not fail its neighbours: halve until it is alone."""
        if len(batch) == 1:
            log.error("inject.failed", message_id=str(batch[0].row.id), exc_info=error)
            _fail(batch[0], error)
            return
        middle = len(batch) // 2
        await self._commit(batch[:middle])
        await self._commit(batch[middle:])


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _thread_id(value: str | None) -> UUID | None:
    if value is None:
        return None
    try:
        return UUID(value)
    except ValueError:
        raise bad_thread_id() from None


def _message_id(organism: str, key: str | None) -> UUID:
    return uuid5(_NAMESPACE, f"{organism}\n{key}") if key else uuid4()


def _digest(inject: Inject, thread_id: UUID | None) -> bytes:
    sent = {"to": inject.to, "payload": inject.payload, "threadId": str(thread_id) if thread_id else None}
    return hashlib.sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).digest()
