"""Budgets form a tree, usage events are kept by month, sums by hour and day.

The tables of the ledger are made anew from what is in them, which takes as long as it takes to write them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROOM_FOR_UPDATES = {"fillfactor": "50"}
_REMADE = ("budgets", "usage_events", "usage_rollups")
_NEW = (
    "webhook_deliveries",
    "carried_forward",
    "usage_archives",
    "latency_rollups",
    "tag_rollups",
    "prices",
    "top_ups",
    "usage_periods",
)


def upgrade() -> None:
    """Make the tables, and fill them with what was there."""
    _set_aside()
    _periods()
    _threads_and_messages()
    _budgets()
    _top_ups()
    _holds()
    _usage_events()
    _prices()
    _usage_rollups()
    _tag_rollups()
    _latency_rollups()
    _archives()
    _webhook_deliveries()
    for statement in _FILL:
        op.execute(statement)
    # The beginning of a period is where all of them are kept.
    op.drop_column("organism_state", "period_started_at")


def downgrade() -> None:
    """Back to budgets of threads alone; token kinds, tags, limits of others and what is parked are forgotten."""
    _set_aside()
    _old_period()
    op.drop_index("ix_messages_parked", "messages")
    op.execute(_UNPARK)
    _ready_index("state = 'ready'")
    op.drop_column("messages", "parks")
    op.drop_column("messages", "parked_for")
    op.drop_column("threads", "tags")
    for table in _NEW:
        op.drop_table(table)
    op.drop_constraint("ck_holds_state", "holds")
    op.create_check_constraint(op.f("ck_holds_state"), "holds", "state in ('held','settled','released','expired')")
    _old_budgets()
    _old_usage_events()
    _old_usage_rollups()
    for statement in _FILL_OLD:
        op.execute(statement)


def _set_aside() -> None:
    for table in _REMADE:
        op.execute(f"create temporary table old_{table} on commit drop as table {table}")
        op.execute(f"drop table {table}")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def _money(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.Numeric(), server_default="0", nullable=False)


def _created_at() -> sa.Column[object]:
    return sa.Column("created_at", TIME, server_default=sa.func.now(), nullable=False)


def _threads_and_messages() -> None:
    op.add_column("threads", sa.Column("tags", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False))
    op.add_column("messages", sa.Column("parked_for", sa.BigInteger()))
    op.add_column("messages", sa.Column("parks", sa.Integer(), server_default="0", nullable=False))
    _ready_index("state = 'ready' and parked_for is null")
    op.create_index("ix_messages_parked", "messages", ["thread_id"], postgresql_where=sa.text("parked_for is not null"))


def _ready_index(where: str) -> None:
    op.drop_index("ix_messages_ready", "messages")
    op.create_index("ix_messages_ready", "messages", ["to_id", "seq"], postgresql_where=sa.text(where))


def _periods() -> None:
    op.create_table(
        "usage_periods",
        sa.Column("period", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("period", name="pk_usage_periods"),
    )


def _budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("thread_id", sa.Uuid()),
        sa.Column("agent_id", sa.Text()),
        sa.Column("tag_key", sa.Text()),
        sa.Column("tag_value", sa.Text()),
        sa.Column("ancestors", ARRAY(sa.Uuid()), server_default="{}", nullable=False),
        sa.Column("base_tokens", sa.BigInteger(), nullable=False),
        _count("topped_up"),
        sa.Column(
            "max_tokens", sa.BigInteger(), sa.Computed("base_tokens + topped_up", persisted=True), nullable=False
        ),
        _count("held"),
        _count("prompt_tokens"),
        _count("completion_tokens"),
        _count("requests"),
        _money("cost"),
        sa.Column("fired", sa.SmallInteger(), server_default="0", nullable=False),
        _created_at(),
        sa.CheckConstraint("held >= 0", name=op.f("ck_budgets_held")),
        sa.CheckConstraint("level between 0 and 3", name=op.f("ck_budgets_level")),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        postgresql_with=ROOM_FOR_UPDATES,
    )
    op.create_index(
        "uq_budgets_agent", "budgets", ["thread_id", "agent_id"], unique=True, postgresql_where=sa.text("level = 3")
    )


def _top_ups() -> None:
    op.create_table(
        "top_ups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        _created_at(),
        sa.CheckConstraint("tokens > 0", name=op.f("ck_top_ups_tokens")),
        sa.PrimaryKeyConstraint("id", name="pk_top_ups"),
    )
    op.create_index("ix_top_ups_thread_id", "top_ups", ["thread_id"])


def _holds() -> None:
    op.execute("delete from holds where state = 'settled'")
    op.drop_constraint("ck_holds_state", "holds")
    op.create_check_constraint(op.f("ck_holds_state"), "holds", "state in ('held','released','expired')")


def _usage_events() -> None:
    op.create_table(
        "usage_events",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid()),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        *(sa.Column(f"{kind}_tokens", sa.Integer()) for kind in _KINDS),
        sa.Column("latency_us", sa.BigInteger()),
        sa.Column("cost", sa.Numeric(), nullable=False),
        sa.Column("uncached_cost", sa.Numeric()),
        sa.Column("price_id", sa.BigInteger()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("granted_at", TIME, nullable=False),
        sa.Column("booked_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("kind in ('measured','estimated','expired')", name=op.f("ck_usage_events_kind")),
        sa.PrimaryKeyConstraint("call_id", "granted_at", name="pk_usage_events"),
        postgresql_partition_by="range (granted_at)",
    )
    op.create_index("ix_usage_events_thread_id", "usage_events", ["thread_id"])
    op.create_index(
        "ix_usage_events_expired", "usage_events", ["granted_at"], postgresql_where=sa.text("kind = 'expired'")
    )
    # For times that no month has been made for. The usage service makes months ahead.
    op.execute("create table usage_events_other partition of usage_events default")


_KINDS = (
    "cache_read",
    "cache_write",
    "reasoning",
    "audio_prompt",
    "audio_completion",
    "image_prompt",
    "image_completion",
)


def _prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("rates", JSONB(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_prices"),
    )


def _usage_rollups() -> None:
    op.create_table(
        "usage_rollups",
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("grain", sa.Text(), nullable=False),
        sa.Column("start", TIME, nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        *(_count(name) for name in ("requests", "estimated", "expired", "unpriced")),
        *(_count(f"{kind}_tokens") for kind in ("prompt", "completion", "cache_read", "cache_write")),
        *(_count(f"{kind}_tokens") for kind in ("reasoning", "audio", "image")),
        _count("latency_us"),
        _money("cost"),
        _money("uncached_cost"),
        sa.CheckConstraint("grain in ('hour','day')", name=op.f("ck_usage_rollups_grain")),
        sa.PrimaryKeyConstraint("period", "grain", "start", "agent_id", "model", "provider", name="pk_usage_rollups"),
        postgresql_with=ROOM_FOR_UPDATES,
    )


def _tag_rollups() -> None:
    op.create_table(
        "tag_rollups",
        sa.Column("period", sa.Integer(), nullable=False),
        sa.Column("grain", sa.Text(), nullable=False),
        sa.Column("start", TIME, nullable=False),
        sa.Column("tag_id", sa.Uuid(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        *(_count(name) for name in ("requests", "prompt_tokens", "completion_tokens")),
        _money("cost"),
        sa.CheckConstraint("grain in ('hour','day')", name=op.f("ck_tag_rollups_grain")),
        sa.PrimaryKeyConstraint("period", "grain", "start", "tag_id", "model", "provider", name="pk_tag_rollups"),
        postgresql_with=ROOM_FOR_UPDATES,
    )


def _latency_rollups() -> None:
    op.create_table(
        "latency_rollups",
        sa.Column("day", TIME, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("bucket", sa.SmallInteger(), autoincrement=False, nullable=False),
        _count("requests"),
        sa.PrimaryKeyConstraint("day", "model", "provider", "bucket", name="pk_latency_rollups"),
        postgresql_with=ROOM_FOR_UPDATES,
    )


def _archives() -> None:
    op.create_table(
        "usage_archives",
        sa.Column("month", sa.Date(), nullable=False),
        _count("events"),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        _created_at(),
        sa.PrimaryKeyConstraint("month", name="pk_usage_archives"),
    )
    op.create_table(
        "carried_forward",
        sa.Column("month", sa.Date(), nullable=False),
        sa.Column("period", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("agent_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        *(_count(name) for name in ("requests", "prompt_tokens", "completion_tokens")),
        _money("cost"),
        sa.PrimaryKeyConstraint(
            "month", "period", "thread_id", "agent_id", "model", "provider", name="pk_carried_forward"
        ),
    )


def _webhook_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("budget_id", sa.Uuid(), nullable=False),
        sa.Column("threshold", sa.SmallInteger(), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", TIME, server_default=sa.func.now(), nullable=False),
        sa.Column("delivered_at", TIME),
        sa.Column("failed_at", TIME),
        sa.Column("error", sa.Text()),
        _created_at(),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index(
        "ix_webhook_deliveries_next_at",
        "webhook_deliveries",
        ["next_at"],
        postgresql_where=sa.text("num_nulls(delivered_at, failed_at) = 2"),
    )


def _old_period() -> None:
    started = sa.Column("period_started_at", TIME, server_default=sa.func.now(), nullable=False)
    op.add_column("organism_state", started)
    op.execute(
        "update organism_state set period_started_at = started_at from usage_periods where period = usage_period"
    )


def _old_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("max_tokens", sa.BigInteger(), nullable=False),
        *(_count(name) for name in ("held", "prompt_tokens", "completion_tokens")),
        _created_at(),
        sa.CheckConstraint("held >= 0", name=op.f("ck_budgets_held")),
        sa.PrimaryKeyConstraint("thread_id", name="pk_budgets"),
        postgresql_with=ROOM_FOR_UPDATES,
    )


def _old_usage_events() -> None:
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


def _old_usage_rollups() -> None:
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


# The organism's node has a fixed id; its limit is set by the usage service when it reads the configuration.
_ORGANISM = "50c5b1d9-7c0f-5a57-8c0e-2f6f4f2a6d11"
_DAY = "date_bin('1 day', granted_at, timestamptz '2000-01-01 00:00:00+00')"
_BUCKET = "greatest(0, ceil(ln(cast(greatest(latency_us, 1) as float8) / 1000) / ln(cast(1.05 as float8))))"
_HOUR = "date_bin('1 hour', granted_at, timestamptz '2000-01-01 00:00:00+00')"

# Old prices are not known: a row that had one keeps its cost, and gets the price "before", of no rates.
_FILL = (
    """insert into usage_periods (period, started_at)
       select p, case when p = usage_period then period_started_at else to_timestamp(0) + make_interval(secs => p) end
       from organism_state, generate_series(1, usage_period) as p""",
    "insert into usage_periods (period, started_at) values (1, to_timestamp(0)) on conflict do nothing",
    """insert into prices (id, provider, model, source, rates)
       select 0, '', '', 'before', '{}' where exists (select from old_usage_events where priced)""",
    """insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
           completion_tokens, latency_us, cost, price_id, kind, period, granted_at, booked_at)
       select call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
           case when kind = 'measured' then round(latency_ms * 1000) end, cost, case when priced then 0 end, kind,
           period, granted_at, booked_at
       from old_usage_events""",
    f"""insert into budgets (id, level, base_tokens, held, prompt_tokens, completion_tokens, requests, cost)
       select '{_ORGANISM}', 0, 9007199254740991, coalesce(sum(held), 0), coalesce(sum(prompt_tokens), 0),
           coalesce(sum(completion_tokens), 0), (select count(*) from old_usage_events),
           (select coalesce(sum(cost), 0) from old_usage_events)
       from old_budgets""",  # noqa: S608
    # Nobody is told now of what has long been exhausted.
    f"""insert into budgets (id, level, thread_id, ancestors, base_tokens, held, prompt_tokens, completion_tokens,
           requests, cost, fired, created_at)
       select b.thread_id, 2, b.thread_id, array['{_ORGANISM}'::uuid], b.max_tokens, b.held, b.prompt_tokens,
           b.completion_tokens, coalesce(e.requests, 0), coalesce(e.cost, 0),
           case when b.prompt_tokens + b.completion_tokens >= greatest(b.max_tokens, 1) then 100 else 0 end,
           b.created_at
       from old_budgets b left join (
           select thread_id, count(*) as requests, sum(cost) as cost from old_usage_events group by 1
       ) e using (thread_id)""",  # noqa: S608
    f"""insert into usage_rollups (period, grain, start, agent_id, model, provider, requests, estimated, expired,
           unpriced, prompt_tokens, completion_tokens, latency_us, cost, uncached_cost)
       select period, grain, case grain when 'day' then {_DAY} else {_HOUR} end, agent_id, model, provider, count(*), 0,
           count(*) filter (where kind = 'expired'), count(*) filter (where price_id is null), sum(prompt_tokens),
           sum(completion_tokens), coalesce(sum(latency_us), 0), sum(cost), sum(cost)
       from usage_events, (values ('hour'), ('day')) as grains (grain) group by 1, 2, 3, 4, 5, 6""",  # noqa: S608
    f"""insert into latency_rollups (day, model, provider, bucket, requests)
       select {_DAY}, model, provider, {_BUCKET}, count(*)
       from usage_events where latency_us is not null group by 1, 2, 3, 4""",  # noqa: S608
)

_UNPARK = "update messages set due_at = null where parked_for is not null"

_FILL_OLD = (
    """insert into budgets (thread_id, max_tokens, held, prompt_tokens, completion_tokens, created_at)
       select thread_id, max_tokens, held, prompt_tokens, completion_tokens, created_at from old_budgets
       where level = 2""",
    """insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
           completion_tokens, latency_ms, cost, priced, kind, period, granted_at, booked_at)
       select call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
           coalesce(latency_us, 0) / 1000.0, cost, price_id is not null,
           case kind when 'estimated' then 'measured' else kind end, period, granted_at, booked_at
       from old_usage_events""",
    """insert into usage_rollups (period, hour, agent_id, model, provider, requests, prompt_tokens, completion_tokens,
           latency_ms, cost)
       select period, start, agent_id, model, provider, requests, prompt_tokens, completion_tokens, latency_us / 1000.0,
           cost
       from old_usage_rollups where grain = 'hour'""",
)
