"""Dead letters can be redriven. New columns with constant defaults: no table is rewritten, no lock is held for long."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OF_LETTERS = ("calls", "failed", "redriven_at", "redrive_id", "redrive_hash")


def upgrade() -> None:
    """Note what a failure closed, and what became of its letter."""
    op.add_column("inbox", sa.Column("letter_id", sa.Uuid()))
    op.add_column("dead_letters", sa.Column("calls", ARRAY(sa.Uuid()), server_default="{}", nullable=False))
    op.add_column("dead_letters", sa.Column("failed", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("dead_letters", sa.Column("redriven_at", sa.DateTime(timezone=True)))
    op.add_column("dead_letters", sa.Column("redrive_id", sa.Uuid()))
    op.add_column("dead_letters", sa.Column("redrive_hash", sa.LargeBinary()))
    op.create_index("ix_dead_letters_listener", "dead_letters", ["listener", "created_at"])
    op.create_index("ix_dead_letters_thread_id", "dead_letters", ["thread_id"])


def downgrade() -> None:
    """Forget it. What was accepted to be redriven and is not routed yet is given up."""
    op.execute(_GIVE_UP)
    op.drop_index("ix_dead_letters_thread_id", "dead_letters")
    op.drop_index("ix_dead_letters_listener", "dead_letters")
    for column in reversed(_OF_LETTERS):
        op.drop_column("dead_letters", column)
    op.drop_column("inbox", "letter_id")


# An older router would take these for injects from outside.
_GIVE_UP = """
with given_up as (
    update inbox set taken_at = clock_timestamp() where taken_at is null and letter_id is not null returning thread_id
), counted as (
    select thread_id, count(*) as n from given_up group by thread_id
)
update threads t set open = t.open - c.n,
    status = case when t.status <> 'active' or t.open > c.n then t.status
                  when t.failed > 0 then 'error' else 'completed' end
from counted c where t.id = c.thread_id
"""
