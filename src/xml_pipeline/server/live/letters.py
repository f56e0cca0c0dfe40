"""`/dead-letters`: what could not be handled, looked at, redriven and deleted."""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from xml_pipeline.envelope.codec import decode_envelope, encode_envelope
from xml_pipeline.envelope.model import API, Envelope, Kind
from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.payload import PayloadType
from xml_pipeline.server import models
from xml_pipeline.server.access.visitor import current_actor
from xml_pipeline.server.contracts import check_json
from xml_pipeline.server.live.configured import Configured, Current
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.live.traces import accepted_spans, parent_of_envelope
from xml_pipeline.server.live.usage import as_uuid, storable
from xml_pipeline.server.refusals import already_redriven, not_redrivable, redrive_pending, thread_killed, too_large
from xml_pipeline.server.view import LetterQuery, Page
from xml_pipeline.storage import dead_letters, redrives
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.dead_letters import DeadLetter, Deletion
from xml_pipeline.storage.redrives import Answer, Redrive, redrive_id
from xml_pipeline.tracing.port import OFF, Tracing

_KILLED = "killed"
_ENVELOPE_START = b"<message "


class LiveLetters:
    """The letter store of a gateway."""

    def __init__(self, db: Database, current: Current, outbox: Outbox, tracing: Tracing = OFF) -> None:
        self._db = db
        self._current = current
        self._outbox = outbox
        self._tracing = tracing

    async def list(self, query: LetterQuery, page: Page) -> tuple[list[models.DeadLetterInfo], int]:
        """One page, the newest first."""
        thread_id = None if query.thread is None else as_uuid(query.thread)
        impossible = query.thread is not None and thread_id is None
        if impossible or not all(storable(text) for text in (query.listener, query.code) if text is not None):
            return [], 0
        async with self._db.begin() as connection:
            found = await dead_letters.list_dead_letters(
                connection,
                listener=query.listener,
                thread_id=thread_id,
                code=query.code,
                redriven=query.redriven,
                since=query.since,
                limit=page.limit,
                offset=page.offset,
            )
        return [models.DeadLetterInfo(**_fields(letter, self._current.value)) for letter in found.items], found.total

    async def get(self, letter_id: str) -> models.DeadLetterDetail | None:
        """One dead letter with its bytes."""
        letter = await self._find(letter_id)
        if letter is None:
            return None
        body = b64encode(letter.body).decode()
        return models.DeadLetterDetail(**_fields(letter, self._current.value), body=body, xml=_text(letter.body))

    async def redrive(self, letter_id: str, payload: Mapping[str, Any] | None) -> models.RedriveAnswer | None:
        """Accepted when it is committed; then published, as an inject is."""
        began = time.time_ns()
        letter = await self._find(letter_id)
        if letter is None:
            return None
        if payload is not None:
            check_json(payload)
        wanted = _digest(payload)
        if letter.redriven_at is not None:
            if letter.redrive_hash != wanted:
                raise already_redriven(letter.redrive_id)
            return _answer(letter.thread_id, letter.redrive_id)
        redrive = _prepared(letter, payload, wanted, self._current.value, self._tracing)
        async with self._db.begin() as connection:
            answer = await redrives.accept(connection, redrive, actor=current_actor())
        return self._answered(redrive, answer, began)

    async def delete(self, letter_id: str) -> bool:
        """Forget it for good; a Problem while its redrive is under way."""
        id_ = as_uuid(letter_id)
        if id_ is None:
            return False
        async with self._db.begin() as connection:
            deletion = await dead_letters.delete_dead_letter(connection, id_, actor=current_actor())
        if deletion is Deletion.PENDING:
            raise redrive_pending()
        return deletion is Deletion.DONE

    async def _find(self, letter_id: str) -> DeadLetter | None:
        id_ = as_uuid(letter_id)
        if id_ is None:
            return None
        async with self._db.begin() as connection:
            return await dead_letters.get_dead_letter(connection, id_)

    def _accepted(self, redrive: Redrive, began_ns: int) -> None:
        parent = parent_of_envelope(redrive.thread_id, redrive.id, self._tracing)
        self._outbox.inject(str(redrive.id), redrive.body, parent)
        if self._tracing.on:
            about = (redrive.thread_id, redrive.id, redrive.to_id)
            times = (began_ns, time.time_ns())
            self._tracing.tell(accepted_spans("redrive", *about, times, redrive_of=redrive.message_id))

    def _answered(self, redrive: Redrive, answer: Answer, began_ns: int) -> models.RedriveAnswer | None:
        match answer:
            case Answer.GONE:
                return None
            case Answer.OTHERWISE:
                raise already_redriven(redrive.id)
            case Answer.KILLED:
                raise thread_killed(str(redrive.thread_id))
            case Answer.ACCEPTED:
                self._accepted(redrive, began_ns)
            case Answer.REPEATED:
                pass
        return _answer(redrive.thread_id, redrive.id)


def _answer(thread_id: UUID | None, message_id: UUID | None) -> models.RedriveAnswer:
    return models.RedriveAnswer(thread_id=str(thread_id), message_id=str(message_id))


def _prepared(
    letter: DeadLetter,
    payload: Mapping[str, Any] | None,
    digest: bytes,
    configured: Configured,
    tracing: Tracing,
) -> Redrive:
    """Check a redrive and write its envelope; raises Problem or InvalidPayload."""
    if letter.message_id is None or letter.thread_id is None or letter.listener is None:
        raise not_redrivable("it never was a message of a thread")
    if letter.thread_status == _KILLED:
        raise thread_killed(str(letter.thread_id))
    payload_type = _payload_type(letter, configured)
    if payload_type is None:
        raise not_redrivable("its listener, or what it is an answer of, is not configured any more")
    xml = _payload(letter) if payload is None else payload_type.to_xml(payload_type.from_json(dict(payload)))
    payload_type.from_xml(xml)
    parent = parent_of_envelope(letter.thread_id, redrive_id(letter.id), tracing)
    body = encode_envelope(Envelope(letter.from_id or API, letter.listener, letter.thread_id, xml, parent))
    limit = configured.organism.limits.max_envelope_bytes
    if len(body) > limit:
        raise too_large(limit)
    about = (letter.id, letter.message_id, letter.thread_id, letter.listener)
    return Redrive(*about, digest, body, corrected=payload is not None)


def _payload_type(letter: DeadLetter, configured: Configured) -> PayloadType | None:
    """What its listener takes; for an answer to one of its own requests, what that was."""
    contract = configured.contracts.get(letter.listener or "")
    if contract is None or letter.kind is None or letter.kind == Kind.REQUEST:
        return None if contract is None else contract.payload_type
    return configured.catalog.find(letter.payload_type or "")


def _payload(letter: DeadLetter) -> bytes:
    """The payload, also of what is kept as the envelope that it came in."""
    return decode_envelope(letter.body).payload if letter.body.startswith(_ENVELOPE_START) else letter.body


def _digest(payload: Mapping[str, Any] | None) -> bytes:
    return hashlib.sha256(json.dumps(payload, sort_keys=True, ensure_ascii=True).encode()).digest()


def _fields(letter: DeadLetter, configured: Configured) -> dict[str, Any]:
    about = letter.message_id and letter.thread_id and letter.listener
    known = _payload_type(letter, configured) is not None
    redrivable = bool(about) and known and letter.redriven_at is None and letter.thread_status != _KILLED
    return {
        "id": str(letter.id),
        "message_id": _id(letter.message_id),
        "thread_id": _id(letter.thread_id),
        "listener": letter.listener,
        "code": letter.code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "created_at": letter.created_at,
        "redriven_at": letter.redriven_at,
        "redrive_id": _id(letter.redrive_id),
        "redrivable": redrivable,
        "payload": _payload_json(letter, configured),
    }


def _payload_json(letter: DeadLetter, configured: Configured) -> dict[str, Any] | None:
    payload_type = _payload_type(letter, configured)
    if payload_type is None:
        return None
    try:
        return payload_type.to_json(payload_type.from_xml(_payload(letter)))
    except XmlPipelineError:
        # It may be a dead letter for that very reason.
        return None


def _id(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
