"""A new table with an index, and a view of it: in one transaction, since nobody waits for what is new."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "to_come_4"
down_revision = "to_come_3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "notes",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("thread_id", sa.Uuid(), sa.ForeignKey("threads.id")),
        sa.Column("said", sa.Text()),
    )
    op.create_index("ix_notes_said", "notes", ["said"])
    op.execute("create view reports.notes as select id, said from notes")


def downgrade() -> None:
    """Drop them."""
    op.execute("drop view reports.notes")
    op.drop_table("notes")
