"""An inject as it is stored: checked, with its ids and its envelope; and why it was turned down."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID, uuid4, uuid5

from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import API, Envelope
from xml_pipeline.organism.model import Organism
from xml_pipeline.server.contracts import check_json
from xml_pipeline.server.live.backlog import full_problem, limits_of
from xml_pipeline.server.live.configured import Configured
from xml_pipeline.server.live.traces import parent_of_envelope
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.refusals import (
    bad_thread_id,
    budget_exhausted,
    key_used_differently,
    tags_differ,
    thread_killed,
    too_large,
    unknown_target,
)
from xml_pipeline.server.view import Inject
from xml_pipeline.storage import inbox
from xml_pipeline.storage.backlog import Full
from xml_pipeline.storage.budget_rows import Level
from xml_pipeline.storage.spent_budgets import Exhausted
from xml_pipeline.tracing.port import OFF, Tracing

_NAMESPACE = UUID("6f2d8a0e-5b39-5c1c-9f7e-2d0a54b7c3aa")


def prepare(inject: Inject, configured: Configured, tracing: Tracing = OFF) -> inbox.Inject:
    """Check an inject and write its envelope; raises Problem or InvalidPayload."""
    contract = configured.contracts.get(inject.to)
    if contract is None or contract.payload_type is None:
        raise unknown_target(inject.to)
    given = _thread_id(inject.thread_id)
    check_json(inject.payload)
    payload = contract.payload_type.to_xml(contract.payload_type.from_json(dict(inject.payload)))
    message_id = _message_id(configured.organism.name, inject.key)
    thread_id = given or (uuid5(message_id, "thread") if inject.key else uuid4())
    parent = parent_of_envelope(thread_id, message_id, tracing)
    body = encode_envelope(Envelope(API, inject.to, thread_id, payload, parent))
    limit = configured.organism.limits.max_envelope_bytes
    if len(body) > limit:
        raise too_large(limit)
    return inbox.Inject(message_id, thread_id, inject.to, _digest(inject, given), body, inject.tags)


def refused(answer: inbox.Refused, row: inbox.Inject, organism: Organism) -> Problem:
    """Why the database turned an inject down."""
    match answer:
        case Full():
            return full_problem(answer, row, limits_of(organism))
        case inbox.Refusal.KILLED:
            return thread_killed(str(row.thread_id))
        case inbox.Refusal.CONFLICT:
            return key_used_differently()
        case inbox.Refusal.TAGS_DIFFER:
            return tags_differ(str(row.thread_id))
        case Exhausted():
            thread = str(row.thread_id)
            name = answer.tag or (thread if answer.level is Level.THREAD else organism.name)
            scope = answer.level.name.lower()
            return budget_exhausted(scope, name, answer.max_tokens, answer.spent, None if answer.new else thread)


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
    sent: dict[str, object] = {
        "to": inject.to,
        "payload": inject.payload,
        "threadId": str(thread_id) if thread_id else None,
    }
    if inject.tags is not None:
        sent["tags"] = dict(inject.tags)
    return hashlib.sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).digest()
