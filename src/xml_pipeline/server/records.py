"""Rows as the API tells them."""

from __future__ import annotations

from xml_pipeline.server.configured import Configured
from xml_pipeline.server.models import MessageInfo, ThreadInfo, ThreadStatus
from xml_pipeline.storage.messages import MessageRecord
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
