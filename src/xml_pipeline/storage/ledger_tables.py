"""The tables of the ledger: budgets, holds, usage, and the sums of it. Every time is the database's clock."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from xml_pipeline.storage.columns import created_at, metadata

# A row that every batch updates stays on its page, and its indexes are left alone.
_ROOM_FOR_UPDATES = {"fillfactor": "50"}


def _count(name: str) -> Column[object]:
    return Column(name, BigInteger, nullable=False, server_default="0")


# Cost in steps of 20 cents, and use: so coarse that most updates change neither, and so leave all indexes alone.
_COST_RANK = "case when level = 2 then cast(floor(5 * cast(cost as float8)) as integer) end"
_USE_RANK = """case when base_tokens + topped_up < 9007199254740991 then cast(width_bucket(
    cast(prompt_tokens + completion_tokens as float8) / greatest(base_tokens + topped_up, 1),
    array[0.5, 0.65, 0.75, 0.85, 0.95]::float8[]) as smallint)
    when level < 2 then cast(-1 as smallint) end"""


def _rollup_indexes(table: str) -> tuple[Index, Index]:
    """By time over all periods: days as the reports ask for them, hours as the graphs do."""
    day = text("(cast(start at time zone 'UTC' as date))")
    return (
        Index(f"ix_{table}_day", day, postgresql_where=text("grain = 'day'")),
        Index(f"ix_{table}_hour", "start", postgresql_where=text("grain = 'hour'")),
    )


# A tree: 0 the organism, 1 a tag, 2 a thread, 3 an agent within a thread. A thread's id is its node's id.
# available + held + spent = max_tokens, always; spent = prompt_tokens + completion_tokens.
# `ancestors` are the ids of the nodes above; they never change. `fired`: the highest threshold told of, in percent.
budgets = Table(
    "budgets",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("level", SmallInteger, nullable=False),
    Column("thread_id", Uuid),
    Column("agent_id", Text),
    Column("tag_key", Text),
    Column("tag_value", Text),
    Column("ancestors", ARRAY(Uuid), nullable=False, server_default="{}"),
    Column("base_tokens", BigInteger, nullable=False),
    _count("topped_up"),
    Column("max_tokens", BigInteger, Computed("base_tokens + topped_up", persisted=True), nullable=False),
    _count("held"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    _count("requests"),
    Column("cost", Numeric, nullable=False, server_default="0"),
    Column("fired", SmallInteger, nullable=False, server_default="0"),
    created_at(),
    Column("cost_rank", Integer, Computed(_COST_RANK, persisted=True)),  # of threads
    Column("use_rank", SmallInteger, Computed(_USE_RANK, persisted=True)),  # null: a thread or agent without a limit
    CheckConstraint("held >= 0", name="held"),
    CheckConstraint("level between 0 and 3", name="level"),
    Index("uq_budgets_agent", "thread_id", "agent_id", unique=True, postgresql_where=text("level = 3")),
    Index("ix_budgets_cost_rank", text("cost_rank desc"), postgresql_where=text("level = 2")),
    Index("ix_budgets_use_rank", text("use_rank desc"), postgresql_where=text("use_rank is not null")),
    Index("ix_budgets_level", "level", postgresql_where=text("level < 2")),
    postgresql_with=_ROOM_FOR_UPDATES,
)

top_ups = Table(
    "top_ups",
    metadata,
    Column("id", Uuid, primary_key=True),  # derived from the Idempotency-Key where there is one
    Column("thread_id", Uuid, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("actor", Text, nullable=False),
    created_at(),
    CheckConstraint("tokens > 0", name="tokens"),
    Index("ix_top_ups_thread_id", "thread_id"),
)

# A hold that is settled is deleted: the event of its call is what remains. `released` and `expired` ones stay.
holds = Table(
    "holds",
    metadata,
    Column("call_id", Uuid, primary_key=True),
    Column("message_id", Uuid, nullable=False),
    Column("thread_id", Uuid, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("prompt_bound", Integer, nullable=False),
    Column("max_completion", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("period", Integer, nullable=False),
    Column("granted_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("state in ('held','released','expired')", name="state"),
    Index("ix_holds_expires_at", "expires_at", postgresql_where=text("state = 'held'")),
)

# Partitioned by month. Token counts that the provider did not report are null, and so is the latency of what expired.
# Prompt tokens include those read from and written to a cache, and their audio and images; completion tokens include
# reasoning, audio and images. `uncached_cost`: what it had cost without a cache, null where no cache was reported.
# `price_id` is null where no price is known; no foreign key, since its check would cost as much as the insert.
usage_events = Table(
    "usage_events",
    metadata,
    Column("call_id", Uuid, primary_key=True),
    Column("message_id", Uuid),
    Column("thread_id", Uuid, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("cache_read_tokens", Integer),
    Column("cache_write_tokens", Integer),
    Column("reasoning_tokens", Integer),
    Column("audio_prompt_tokens", Integer),
    Column("audio_completion_tokens", Integer),
    Column("image_prompt_tokens", Integer),
    Column("image_completion_tokens", Integer),
    Column("latency_us", BigInteger),
    Column("cost", Numeric, nullable=False),
    Column("uncached_cost", Numeric),
    Column("price_id", BigInteger),
    Column("kind", Text, nullable=False),
    Column("period", Integer, nullable=False),
    Column("granted_at", DateTime(timezone=True), primary_key=True),
    Column("booked_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("kind in ('measured','estimated','expired')", name="kind"),
    Index("ix_usage_events_thread_id", "thread_id"),
    Index("ix_usage_events_expired", "granted_at", postgresql_where=text("kind = 'expired'")),
    postgresql_partition_by="range (granted_at)",
)

# What calls were charged by: USD per million tokens, by kind of token. The id is a hash of the rest.
prices = Table(
    "prices",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("rates", JSONB, nullable=False),
    created_at(),
)

# Sums by hour and by day (UTC), so that what spans months reads few rows.
usage_rollups = Table(
    "usage_rollups",
    metadata,
    Column("period", Integer, primary_key=True),
    Column("grain", Text, primary_key=True),
    Column("start", DateTime(timezone=True), primary_key=True),
    Column("agent_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    _count("requests"),
    _count("estimated"),
    _count("expired"),
    _count("unpriced"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    _count("cache_read_tokens"),
    _count("cache_write_tokens"),
    _count("reasoning_tokens"),
    _count("audio_tokens"),
    _count("image_tokens"),
    _count("latency_us"),
    Column("cost", Numeric, nullable=False, server_default="0"),
    Column("uncached_cost", Numeric, nullable=False, server_default="0"),
    CheckConstraint("grain in ('hour','day')", name="grain"),
    *_rollup_indexes("usage_rollups"),
    postgresql_with=_ROOM_FOR_UPDATES,
)

# Usage of threads that have tags, once for each of them; `tag_id` is the tag's node among the budgets.
tag_rollups = Table(
    "tag_rollups",
    metadata,
    Column("period", Integer, primary_key=True),
    Column("grain", Text, primary_key=True),
    Column("start", DateTime(timezone=True), primary_key=True),
    Column("tag_id", Uuid, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    _count("requests"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    Column("cost", Numeric, nullable=False, server_default="0"),
    CheckConstraint("grain in ('hour','day')", name="grain"),
    *_rollup_indexes("tag_rollups"),
    postgresql_with=_ROOM_FOR_UPDATES,
)

# How many calls of a day (UTC) were how slow: `bucket` b holds latencies above 1.05^(b-1) ms and up to 1.05^b ms.
latency_rollups = Table(
    "latency_rollups",
    metadata,
    Column("day", DateTime(timezone=True), primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
    _count("requests"),
    Index("ix_latency_rollups_day", text("(cast(day at time zone 'UTC' as date))")),
    postgresql_with=_ROOM_FOR_UPDATES,
)

# What was in a month that was archived, so that the books can still be closed.
usage_archives = Table(
    "usage_archives",
    metadata,
    Column("month", Date, primary_key=True),
    _count("events"),
    Column("file", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    created_at(),
)
carried_forward = Table(
    "carried_forward",
    metadata,
    Column("month", Date, primary_key=True),
    Column("period", Integer, primary_key=True, autoincrement=False),
    Column("thread_id", Uuid, primary_key=True),
    Column("agent_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    _count("requests"),
    _count("prompt_tokens"),
    _count("completion_tokens"),
    Column("cost", Numeric, nullable=False, server_default="0"),
)

# What is to be told to the configured webhook, until it has answered or too much time has passed.
webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("budget_id", Uuid, nullable=False),
    Column("threshold", SmallInteger, nullable=False),
    Column("body", JSONB, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("delivered_at", DateTime(timezone=True)),
    Column("failed_at", DateTime(timezone=True)),
    Column("error", Text),
    created_at(),
    Index("ix_webhook_deliveries_next_at", "next_at", postgresql_where=text("num_nulls(delivered_at, failed_at) = 2")),
)
