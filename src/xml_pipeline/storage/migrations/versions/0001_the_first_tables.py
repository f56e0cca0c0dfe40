"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
# A row that every batch updates stays on its page, and its indexes are left alone.
ROOM_FOR_UPDATES = {"fillfactor": "50"}
_TABLES = (
    "threads",
    "inbox",
    "messages",
    "calls",
    "turns",
    "dead_letters",
    "listeners",
    "configurations",
    "organism_state",
    "audit_log",
    "budgets",
    "holds",
    "usage_events",
    "usage_rollups",
)


def upgrade() -> None:
    """Make all tables, and the one row of the organism."""
    _threads()
    _inbox()
    _messages()
    _calls()
    _turns()
    _dead_letters()
    _listeners()
    _configurations()
    _organism_state()
    _audit_log()
    _budgets()
    _holds()
    _usage_events()
    _usage_rollups()


def downgrade() -> None:
    """Drop all tables."""
    for table in reversed(_TABLES):
        op.drop_table(table)


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False)


def _threads() -> None:
    op.create_table(
        "threads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("open", sa.Integer(), server_default="0", nullable=False),
        sa.Column("slots", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("participants", ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        _created_at(),
        sa.Column("last_activity", TIME, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("status in ('active','completed','error','killed')", name=op.f("ck_threads_status")),
        sa.CheckConstraint("open >= 0", name=op.f("ck_threads_open")),
        sa.PrimaryKeyConstraint("id", name="pk_threads"),
    )
    op.create_index("ix_threads_created_at", "threads", [sa.text("created_at desc"), sa.text("id desc")])


def _inbox() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("to_id", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _created_at(),
        sa.Column("taken_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_inbox_thread_id_threads"),
        sa.PrimaryKeyConstraint("id", name="pk_inbox"),
    )
    op.create_index("ix_inbox_created_at", "inbox", ["created_at"], postgresql_where=sa.text("taken_at is null"))
    op.create_index("ix_inbox_thread_id", "inbox", ["thread_id"], postgresql_where=sa.text("taken_at is null"))


def _messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("from_id", sa.Text(), nullable=False),
        sa.Column("to_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload_type", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("call_id", sa.Uuid(), nullable=True),
        sa.Column("answers", sa.Uuid(), nullable=True),
        sa.Column("remaining", sa.Integer(), server_default="0", nullable=False),
        sa.Column("hop", sa.Integer(), server_default="0", nullable=False),
        sa.Column("mailbox", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("sent_at", TIME, nullable=True),
        sa.Column("deadline", TIME, nullable=True),
        sa.Column("confirmed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=True),
        sa.Column("redrive_of", sa.Uuid(), nullable=True),
        _created_at(),
        sa.Column("closed_at", TIME, nullable=True),
        sa.CheckConstraint("kind in ('request','response','error')", name=op.f("ck_messages_kind")),
        sa.CheckConstraint("state in ('waiting','ready','out','closed')", name=op.f("ck_messages_state")),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_messages_thread_id_threads"),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
        sa.UniqueConstraint("thread_id", "slot", name="uq_messages_thread_id_slot"),
    )
    op.create_index("ix_messages_answers", "messages", ["answers"], postgresql_where=sa.text("answers is not null"))
    op.create_index(
        "ix_messages_busy",
        "messages",
        ["thread_id", "to_id"],
        postgresql_where=sa.text("not mailbox and state in ('ready','out')"),
    )
    op.create_index(
        "ix_messages_call_id", "messages", ["call_id", "slot"], postgresql_where=sa.text("kind <> 'request'")
    )
    op.create_index("ix_messages_out", "messages", ["to_id"], postgresql_where=sa.text("state = 'out'"))
    op.create_index("ix_messages_ready", "messages", ["to_id", "seq"], postgresql_where=sa.text("state = 'ready'"))
    op.create_index("ix_messages_seq", "messages", ["seq"])
    op.create_index(
        "ix_messages_waiting", "messages", ["thread_id", "to_id", "slot"], postgresql_where=sa.text("state = 'waiting'")
    )
    op.create_index(
        "uq_messages_mailbox_head",
        "messages",
        ["thread_id", "to_id"],
        unique=True,
        postgresql_where=sa.text("mailbox and state in ('ready','out')"),
    )


def _calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("callee", sa.Text(), nullable=False),
        sa.Column("parent", sa.Uuid(), nullable=True),
        sa.Column("awaited", sa.Boolean(), nullable=False),
        sa.Column("pending", sa.Integer(), server_default="0", nullable=False),
        sa.Column("open", sa.Integer(), server_default="1", nullable=False),
        sa.Column("answered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name="fk_calls_thread_id_threads"),
        sa.PrimaryKeyConstraint("id", name="pk_calls"),
    )
    op.create_index("ix_calls_thread_id", "calls", ["thread_id"])


def _turns() -> None:
    op.create_table(
        "turns",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("counted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), server_default="0", nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
    )
    op.create_index("ix_turns_message_id", "turns", ["message_id"])


def _dead_letters() -> None:
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("thread_id", sa.Uuid(), nullable=True),
        sa.Column("listener", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
    )
    op.create_index("ix_dead_letters_created_at", "dead_letters", ["created_at"])


def _listeners() -> None:
    op.create_table(
        "listeners",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("is_agent", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("window_size", sa.Integer(), nullable=True),
        sa.Column("capacity", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retired", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_listeners"),
    )


def _configurations() -> None:
    op.create_table(
        "configurations",
        sa.Column("version", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("version", name="pk_configurations"),
    )


def _organism_state() -> None:
    op.create_table(
        "organism_state",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("stop_requested_at", TIME, nullable=True),
        sa.Column("usage_period", sa.Integer(), server_default="1", nullable=False),
        sa.Column("period_started_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_organism_state_single")),
        sa.PrimaryKeyConstraint("id", name="pk_organism_state"),
    )
    op.execute("insert into organism_state (id) values (1)")


def _audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )


def _budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("max_tokens", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), server_default="0", nullable=False),
        _created_at(),
        sa.CheckConstraint("held >= 0", name=op.f("ck_budgets_held")),
        sa.PrimaryKeyConstraint("thread_id", name="pk_budgets"),
        postgresql_with=ROOM_FOR_UPDATES,
    )


def _holds() -> None:
    op.create_table(
        "holds",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("prompt_bound", sa.Integer(), nullable=False),
        sa.Column("max_completion", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("granted_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.CheckConstraint("state in ('held','settled','released','expired')", name=op.f("ck_holds_state")),
        sa.PrimaryKeyConstraint("call_id", name="pk_holds"),
    )
    op.create_index("ix_holds_expires_at", "holds", ["expires_at"], postgresql_where=sa.text("state = 'held'"))


def _usage_events() -> None:
    op.create_table(
        "usage_events",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("latency_ms", sa.Numeric(), nullable=False),
        sa.Column("cost", sa.Numeric(), nullable=False),
        sa.Column("priced", sa.Boolean(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("granted_at", TIME, nullable=False),
        sa.Column("booked_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("kind in ('measured','expired')", name=op.f("ck_usage_events_kind")),
        sa.PrimaryKeyConstraint("call_id", name="pk_usage_events"),
    )
    op.create_index("ix_usage_events_thread_id", "usage_events", ["thread_id"])


def _usage_rollups() -> None:
    op.create_table(
        "usage_rollups",
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("hour", TIME, nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("latency_ms", sa.Numeric(), nullable=False),
        sa.Column("cost", sa.Numeric(), nullable=False),
        sa.PrimaryKeyConstraint("period", "hour", "agent_id", "model", "provider", name="pk_usage_rollups"),
        postgresql_with=ROOM_FOR_UPDATES,
    )
