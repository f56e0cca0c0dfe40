"""Columns of tables that every batch writes, and values for the rows that are there."""

from __future__ import annotations

from xml_pipeline.storage import online

revision = "to_come_1"
down_revision = "HEAD"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    online.add_column("messages", "priority smallint not null default 0")
    online.add_column("usage_events", "region text")
    online.set_default("usage_events", "region", "'new'")
    online.backfill("usage_events", "call_id, granted_at", "region = 'old'", "region is null")
    online.set_not_null("usage_events", "region")


def downgrade() -> None:
    """Drop them."""
    online.drop_column("usage_events", "region")
    online.drop_column("messages", "priority")
