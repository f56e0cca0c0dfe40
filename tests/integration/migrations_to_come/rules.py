"""Checks and a foreign key for tables that are full."""

from __future__ import annotations

from xml_pipeline.storage import online

revision = "to_come_3"
down_revision = "to_come_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    online.add_check("messages", "ck_messages_priority", "priority between 0 and 9")
    online.add_check("usage_events", "ck_usage_events_region", "region in ('old', 'new')")
    online.add_foreign_key("calls", "fk_calls_thread", "thread_id", "threads (id)")


def downgrade() -> None:
    """Drop them."""
    online.drop_constraint("calls", "fk_calls_thread")
    online.drop_constraint("usage_events", "ck_usage_events_region")
    online.drop_constraint("messages", "ck_messages_priority")
