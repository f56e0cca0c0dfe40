"""Rows as the API tells them."""

from __future__ import annotations

from xml_pipeline.envelope.codec import decode_envelope, payload_tag
from xml_pipeline.server.live.configured import Configured
from xml_pipeline.server.models import MessageInfo, ThreadInfo, ThreadStatus
from xml_pipeline.storage.messages import MessageRecord
from xml_pipeline.storage.pending import Pending
from xml_pipeline.storage.threads import ThreadRecord


def thread_info(record: ThreadRecord) -> ThreadInfo:
    """One conversation."""
    return ThreadInfo(
        id=str(record.id),
        status=ThreadStatus(record.status),
        participants=list(record.participants),
        message_count=record.message_count,
        created_at=record.created_at,
        last_activity=record.last_activity,
        error=record.error,
        tags=dict(record.tags),
    )


def pending_info(pending: Pending, configured: Configured) -> MessageInfo:
    """A message that is accepted and on its way to a router."""
    envelope = decode_envelope(pending.body)
    tag = payload_tag(envelope.payload)
    return MessageInfo(
        id=str(pending.id),
        thread_id=str(pending.thread_id),
        from_id=envelope.from_id,
        to_id=pending.to_id,
        payload_type=tag,
        payload=configured.payload_json(tag, envelope.payload),
        timestamp=pending.created_at,
        slot_index=pending.slot - 1,
    )


def message_info(record: MessageRecord, configured: Configured) -> MessageInfo:
    """One message, its payload as JSON."""
    return MessageInfo(
        id=str(record.id),
        thread_id=str(record.thread_id),
        from_id=record.from_id,
        to_id=record.to_id,
        payload_type=record.payload_type,
        payload=configured.payload_json(record.payload_type, record.payload),
        timestamp=record.created_at,
        slot_index=record.slot - 1,
    )
