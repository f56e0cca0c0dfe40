"""The tables. One SQL dialect: PostgreSQL. Every time is the database's clock."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from xml_pipeline.storage.columns import created_at, metadata

# `open` counts what is accepted and not closed: messages, and inbox rows that no router has taken yet.
# `failed` counts requests from outside that ended in a dead letter or an error.
threads = Table(
    "threads",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("status", Text, nullable=False, server_default="active"),
    Column("open", Integer, nullable=False, server_default="0"),
    Column("slots", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("participants", ARRAY(Text), nullable=False, server_default="{}"),
    Column("error", Text),
    Column("tags", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # key -> value; set at its beginning
    created_at(),
    Column("last_activity", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("status in ('active','completed','error','killed')", name="status"),
    CheckConstraint("open >= 0", name="open"),
    Index("ix_threads_created_at", text("created_at desc"), text("id desc")),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", Uuid, primary_key=True),  # the message's id; derived from the Idempotency-Key where there is one
    Column("thread_id", Uuid, ForeignKey("threads.id"), nullable=False),
    Column("to_id", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    created_at(),
    Column("taken_at", DateTime(timezone=True)),
    Column("letter_id", Uuid),  # the dead letter that it redrives
    Index("ix_inbox_created_at", "created_at", postgresql_where=text("taken_at is null")),
    Index("ix_inbox_thread_id", "thread_id", postgresql_where=text("taken_at is null")),
)

# waiting -> ready (head of its mailbox; not before due_at) -> out (in its listener's window) -> closed
messages = Table(
    "messages",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("thread_id", Uuid, ForeignKey("threads.id"), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("seq", BigInteger, Identity(), nullable=False),
    Column("from_id", Text, nullable=False),
    Column("to_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload_type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("call_id", Uuid),  # the call its recipient handles it in; none for `api`
    Column("answers", Uuid),  # the request that it answers
    Column("remaining", Integer, nullable=False, server_default="0"),
    Column("hop", Integer, nullable=False, server_default="0"),
    Column("mailbox", Boolean, nullable=False),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True)),
    Column("sent_at", DateTime(timezone=True)),
    Column("deadline", DateTime(timezone=True)),
    Column("confirmed", Boolean, nullable=False, server_default=text("false")),
    Column("turn_id", Uuid),
    Column("redrive_of", Uuid),
    Column("parked_for", BigInteger),  # tokens that its budgets must have room for before it goes on
    Column("parks", Integer, nullable=False, server_default="0"),  # attempts that ended so
    created_at(),
    Column("closed_at", DateTime(timezone=True)),
    UniqueConstraint("thread_id", "slot"),
    CheckConstraint("state in ('waiting','ready','out','closed')", name="state"),
    CheckConstraint("kind in ('request','response','error')", name="kind"),
    Index(
        "uq_messages_mailbox_head",
        "thread_id",
        "to_id",
        unique=True,
        postgresql_where=text("mailbox and state in ('ready','out')"),
    ),
    Index("ix_messages_waiting", "thread_id", "to_id", "slot", postgresql_where=text("state = 'waiting'")),
    Index(
        "ix_messages_busy",
        "thread_id",
        "to_id",
        postgresql_where=text("not mailbox and state in ('ready','out')"),
    ),
    Index("ix_messages_ready", "to_id", "seq", postgresql_where=text("state = 'ready' and parked_for is null")),
    Index("ix_messages_out", "to_id", postgresql_where=text("state = 'out'")),
    Index("ix_messages_call_id", "call_id", "slot", postgresql_where=text("kind <> 'request'")),
    Index("ix_messages_answers", "answers", postgresql_where=text("answers is not null")),
    Index("ix_messages_seq", "seq"),
    Index("ix_messages_parked", "thread_id", postgresql_where=text("parked_for is not null")),
)

# One row for each request that was routed; its id is the request's. Guarded by the thread's row lock.
calls = Table(
    "calls",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("thread_id", Uuid, ForeignKey("threads.id"), nullable=False),
    Column("caller", Text, nullable=False),
    Column("callee", Text, nullable=False),
    Column("parent", Uuid),  # the caller's own call; none for `api`
    Column("awaited", Boolean, nullable=False),  # the callee has something to answer with
    Column("pending", Integer, nullable=False, server_default="0"),  # awaited requests of this call not yet answered
    Column("open", Integer, nullable=False, server_default="1"),  # messages its callee has still to handle
    Column("answered", Boolean, nullable=False, server_default=text("false")),
    Index("ix_calls_thread_id", "thread_id"),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("message_id", Uuid, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("counted", Boolean, nullable=False),
    Column("reason", Text),
    Column("duration_ms", Integer, nullable=False, server_default="0"),
    created_at(),
    Index("ix_turns_message_id", "message_id"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("message_id", Uuid),
    Column("thread_id", Uuid),
    Column("listener", Text),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("body", LargeBinary, nullable=False),
    created_at(),
    Column("calls", ARRAY(Uuid), nullable=False, server_default="{}"),  # that its failure closed
    Column("failed", Boolean, nullable=False, server_default=text("false")),  # counted in its thread's `failed`
    Column("redriven_at", DateTime(timezone=True)),
    Column("redrive_id", Uuid),
    Column("redrive_hash", LargeBinary),  # of the request that redrove it
    Index("ix_dead_letters_created_at", "created_at"),
    Index("ix_dead_letters_listener", "listener", "created_at"),
    Index("ix_dead_letters_thread_id", "thread_id"),
)

listeners = Table(
    "listeners",
    metadata,
    Column("name", Text, primary_key=True),
    Column("is_agent", Boolean, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("window_size", Integer),  # configured; none: from capacity
    Column("capacity", Integer, nullable=False, server_default="0"),  # what the live workers can hold, summed
    Column("retired", Boolean, nullable=False, server_default=text("false")),  # no longer configured
)

configurations = Table(
    "configurations",
    metadata,
    Column("version", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("text", Text, nullable=False),
    created_at(),
)

# One row: what is asked of the whole organism. A service stops when stop_requested_at is after its own start.
organism_state = Table(
    "organism_state",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="single"), primary_key=True),
    Column("stop_requested_at", DateTime(timezone=True)),
    Column("usage_period", Integer, nullable=False, server_default="1"),
)

# An event belongs to the last period that began before its call was granted.
usage_periods = Table(
    "usage_periods",
    metadata,
    Column("period", Integer, primary_key=True, autoincrement=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    created_at(),
)

# Of a secret only its SHA-256 is kept: see xml_pipeline.access.keys.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    created_at(),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    UniqueConstraint("secret_hash"),
    CheckConstraint("role in ('viewer','operator','admin')", name="role"),
)
