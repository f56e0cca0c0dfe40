"""Indexes: of a table, of one with partitions, and one that keeps rows unique."""

from __future__ import annotations

from xml_pipeline.storage import online

revision = "to_come_2"
down_revision = "to_come_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    online.create_index("ix_usage_events_region", "usage_events", "region, granted_at desc")
    online.create_index("ix_messages_priority", "messages", "priority, seq", where="state <> 'closed'")
    online.create_index("uq_turns_message_id_id", "turns", "message_id, id", unique=True)


def downgrade() -> None:
    """Drop them."""
    online.drop_index("uq_turns_message_id_id")
    online.drop_index("ix_messages_priority")
    online.drop_index("ix_usage_events_region")
