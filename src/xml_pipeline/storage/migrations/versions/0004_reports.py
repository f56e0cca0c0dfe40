"""Reports: views of their own schema, a role that reads just these, and indexes that they are quick by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLE = "organism_reports"
_UNLIMITED = 9007199254740991
_ORGANISM = "50c5b1d9-7c0f-5a57-8c0e-2f6f4f2a6d11"
_DAY = "cast(start at time zone 'UTC' as date)"
_LATENCY_DAY = "cast(day at time zone 'UTC' as date)"

# Steps in which the indexes see cost (20 cents) and use: so coarse that most updates change neither, and so leave all
# indexes alone.
_COST_RANK = "case when level = 2 then cast(floor(5 * cast(cost as float8)) as integer) end"
_USE_RANK = f"""case when base_tokens + topped_up < {_UNLIMITED} then cast(width_bucket(
    cast(prompt_tokens + completion_tokens as float8) / greatest(base_tokens + topped_up, 1),
    array[0.5, 0.65, 0.75, 0.85, 0.95]::float8[]) as smallint)
    when level < 2 then cast(-1 as smallint) end"""

_SUMMED = ("requests", "estimated", "expired", "unpriced", "prompt_tokens", "completion_tokens", "total_tokens")
_TAG_SUMMED = ("requests", "prompt_tokens", "completion_tokens", "total_tokens")


def _cost_by(*dimensions: str, source: str = "usage_details", summed: tuple[str, ...] = _SUMMED) -> str:
    groups = ", ".join(dimensions)
    sums = ",\n    ".join(f"cast(sum({name}) as bigint) as {name}" for name in summed)
    return f"select {groups},\n    {sums},\n    sum(cost) as cost\nfrom reports.{source}\ngroup by {groups}"


def _percentile(share: str, name: str) -> str:
    return f"min(up_to_ms) filter (where so_far >= {share} * in_all) as {name}"


VIEWS = {
    "usage_details": f"""select {_DAY} as day, agent_id as agent, model, provider,
    requests, estimated, expired, unpriced,
    prompt_tokens, completion_tokens, prompt_tokens + completion_tokens as total_tokens,
    cache_read_tokens, cache_write_tokens, cost, uncached_cost
from usage_rollups
where grain = 'day' and requests <> 0""",  # noqa: S608
    "tag_details": f"""select {_DAY} as day, tag_key, tag_value, model, provider,
    r.requests, r.prompt_tokens, r.completion_tokens, r.prompt_tokens + r.completion_tokens as total_tokens, r.cost
from tag_rollups r join budgets b on b.id = r.tag_id
where grain = 'day' and r.requests <> 0""",  # noqa: S608
    "latency_details": f"""select {_LATENCY_DAY} as day, model, provider, bucket,
    round(cast(power(cast(1.05 as float8), bucket) as numeric), 1) as up_to_ms, requests
from latency_rollups
where requests <> 0""",  # noqa: S608
    "cost_by_day": _cost_by("day"),
    "cost_by_agent": _cost_by("day", "agent"),
    "cost_by_model": _cost_by("day", "model", "provider"),
    "cost_by_provider": _cost_by("day", "provider"),
    "cost_by_tag": _cost_by("day", "tag_key", "tag_value", source="tag_details", summed=_TAG_SUMMED),
    "threads_by_cost": """select b.thread_id, cast(b.created_at at time zone 'UTC' as date) as day, t.tags,
    b.requests, b.prompt_tokens, b.completion_tokens, b.prompt_tokens + b.completion_tokens as total_tokens,
    b.cost, b.cost_rank
from budgets b left join threads t on t.id = b.thread_id
where b.level = 2""",
    "budget_utilisation": f"""select
    case level when 0 then 'organism' when 1 then 'tag' when 2 then 'thread' else 'agent' end as level,
    case level when 0 then 'organism' when 1 then tag_key || '=' || tag_value when 2 then cast(thread_id as text)
        else agent_id || ' in ' || thread_id end as budget,
    cast(created_at at time zone 'UTC' as date) as day,
    max_tokens = {_UNLIMITED} as unlimited, max_tokens,
    prompt_tokens + completion_tokens as spent_tokens, held as held_tokens,
    max_tokens - held - prompt_tokens - completion_tokens as available_tokens,
    case when max_tokens < {_UNLIMITED}
        then round(100.0 * (prompt_tokens + completion_tokens) / greatest(max_tokens, 1), 1) end as used_percent,
    use_rank
from budgets
where use_rank is not null""",  # noqa: S608
    "latency_by_model": f"""with counted as (
    select day, model, provider, up_to_ms,
        sum(requests) over (partition by day, model, provider order by bucket) as so_far,
        sum(requests) over (partition by day, model, provider) as in_all
    from reports.latency_details
)
select day, model, provider, cast(max(in_all) as bigint) as requests,
    {_percentile("0.5", "p50_ms")},
    {_percentile("0.9", "p90_ms")},
    {_percentile("0.95", "p95_ms")},
    {_percentile("0.99", "p99_ms")}
from counted
group by day, model, provider""",  # noqa: S608
    "cache_savings": """select day, model, provider, cast(sum(requests) as bigint) as requests,
    cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(cache_read_tokens) as bigint) as cache_read_tokens,
    cast(sum(cache_write_tokens) as bigint) as cache_write_tokens,
    round(100.0 * sum(cache_read_tokens) / nullif(sum(prompt_tokens), 0), 1) as cached_percent,
    sum(cost) as cost, sum(uncached_cost) as uncached_cost, sum(uncached_cost) - sum(cost) as saved
from reports.usage_details
group by day, model, provider""",
    "unpriced_models": """select day, model, provider, cast(sum(unpriced) as bigint) as unpriced,
    cast(sum(requests) as bigint) as requests, cast(sum(total_tokens) as bigint) as total_tokens
from reports.usage_details
where unpriced <> 0
group by day, model, provider""",
    "expired_holds": """select cast(e.granted_at at time zone 'UTC' as date) as day,
    e.granted_at, h.expires_at, e.booked_at,
    e.call_id, e.thread_id, e.agent_id as agent, e.model, e.provider,
    e.prompt_tokens, e.completion_tokens, e.prompt_tokens + e.completion_tokens as total_tokens, e.cost
from usage_events e left join holds h on h.call_id = e.call_id
where e.kind = 'expired'""",
    "burn_rate": f"""with used as (
    select cast('{_ORGANISM}' as uuid) as id, day, total_tokens as tokens
    from reports.usage_details
    where day > cast(now() at time zone 'UTC' as date) - 7
    union all
    select tag_id, {_DAY}, prompt_tokens + completion_tokens
    from tag_rollups
    where grain = 'day' and {_DAY} > cast(now() at time zone 'UTC' as date) - 7
), shared as (
    select id, sum(tokens) as tokens, cast(now() at time zone 'UTC' as date) - min(day) + 1 as days
    from used
    group by id
), latest as (
    select id, created_at, last_activity
    from threads
    order by created_at desc, id desc
    limit 1000
), burning as (
    select b.*, s.tokens, s.days
    from budgets b left join shared s using (id)
    where b.level < 2
    union all
    select b.*, b.prompt_tokens + b.completion_tokens,
        cast(now() at time zone 'UTC' as date) - cast(l.created_at at time zone 'UTC' as date) + 1
    from latest l join budgets b on b.id = l.id
    where l.last_activity > now() - interval '7 days'
)
select case level when 0 then 'organism' when 1 then 'tag' else 'thread' end as level,
    case level when 0 then 'organism' when 1 then tag_key || '=' || tag_value
        else cast(thread_id as text) end as budget,
    max_tokens = {_UNLIMITED} as unlimited,
    max_tokens - held - prompt_tokens - completion_tokens as available_tokens,
    coalesce(round(tokens / days), 0) as tokens_per_day,
    case when max_tokens < {_UNLIMITED}
        then round((max_tokens - held - prompt_tokens - completion_tokens) / nullif(tokens / days, 0), 1)
        end as days_left
from burning""",  # noqa: S608
}

_COMMON = {
    "day": "The day, in UTC.",
    "agent": "The agent that asked.",
    "model": "The model that was asked.",
    "provider": "Who runs the model.",
    "tag_key": "What the tag is about, such as team.",
    "tag_value": "The tag's value.",
    "requests": "Calls that were booked.",
    "estimated": "Of these, calls whose provider reported no tokens.",
    "expired": "Of these, calls whose usage never came, booked at their upper bound.",
    "unpriced": "Of these, calls of a model without a known price, which cost 0.",
    "prompt_tokens": "Tokens sent, those of caches included.",
    "completion_tokens": "Tokens received, reasoning included.",
    "total_tokens": "Tokens sent and received.",
    "cache_read_tokens": "Of the prompt's tokens, those read from the provider's cache.",
    "cache_write_tokens": "Of the prompt's tokens, those written to the provider's cache.",
    "cost": "USD.",
    "uncached_cost": "USD that it had cost without the provider's cache.",
    "thread_id": "The thread.",
    "level": "What the budget is of: organism, tag, thread, or agent (within a thread).",
    "budget": "The budget's name: organism, key=value, the thread's id, or an agent in a thread.",
    "unlimited": "Whether the budget has no limit.",
    "available_tokens": "Tokens left: neither spent nor held.",
    "up_to_ms": "The bucket's upper bound in milliseconds.",
}

COMMENTS = {
    "usage_details": {},
    "tag_details": {},
    "latency_details": {
        "bucket": "The bucket b: latencies above 1.05^(b-1) and up to 1.05^b milliseconds.",
        "requests": "Calls in this bucket.",
    },
    "cost_by_day": {},
    "cost_by_agent": {},
    "cost_by_model": {},
    "cost_by_provider": {},
    "cost_by_tag": {"cost": "USD; what a thread with several tags used is counted at each of them."},
    "threads_by_cost": {
        "day": "The day on which its budget was made, in UTC: that of its first call.",
        "tags": "The thread's tags.",
        "cost_rank": "The cost in coarse steps, for the index: order by cost_rank desc, cost desc.",
    },
    "budget_utilisation": {
        "day": "The day on which the budget was made, in UTC.",
        "max_tokens": "The limit, top-ups included; 9007199254740991 is no limit.",
        "spent_tokens": "Tokens that were used.",
        "held_tokens": "Tokens that calls under way may still use.",
        "used_percent": "Spent tokens in percent of the limit; null without a limit.",
        "use_rank": "The use in coarse steps, for the index: order by use_rank desc, used_percent desc.",
    },
    "latency_by_model": {
        "requests": "Calls whose latency is known.",
        **{
            f"p{share}_ms": f"Milliseconds within which {share} percent of the calls were answered, up to 5 % too high."
            for share in (50, 90, 95, 99)
        },
    },
    "cache_savings": {
        "cached_percent": "Tokens read from a cache, in percent of the prompt's tokens.",
        "saved": "USD that the caches saved; below 0 where writing to them cost more than reading saved.",
    },
    "unpriced_models": {
        "unpriced": "Calls without a known price.",
        "requests": "All calls of agents with such calls.",
        "total_tokens": "Tokens of all these calls.",
    },
    "expired_holds": {
        "granted_at": "When the hold was granted.",
        "expires_at": "When it expired.",
        "booked_at": "When it was booked.",
        "call_id": "The call.",
        "prompt_tokens": "Upper bound of the tokens sent.",
        "completion_tokens": "Upper bound of the tokens received.",
        "total_tokens": "Upper bound of both, which is what was booked.",
        "cost": "USD that was booked.",
    },
    "burn_rate": {
        "tokens_per_day": "Of organism and tags: tokens of today and the six days before (UTC), by the days since the "
        "first of these with usage. Of threads: all tokens, by the days since they began. Today counts as a whole day.",
        "days_left": "Days until nothing is available, at this rate; null without a limit or without usage.",
    },
}


def upgrade() -> None:
    """Add the columns and indexes, make the views, let the role read them."""
    # In one statement, which writes the table anew once.
    op.execute(f"""
        alter table budgets add column cost_rank integer generated always as ({_COST_RANK}) stored,
            add column use_rank smallint generated always as ({_USE_RANK}) stored
    """)
    _indexes()
    op.execute("create schema reports")
    op.execute("comment on schema reports is 'What the ledger knows, for people: views alone. See docs/reports.md'")
    for view, sql in VIEWS.items():
        op.execute(f"create view reports.{view} as {sql}")
        _comment(view)
    _let_role_read()


def downgrade() -> None:
    """Take away views and indexes. The role stays: other databases of the server may use it."""
    op.execute("drop schema reports cascade")
    for index, table in (*_BY_DAY, *_BY_HOUR):
        op.drop_index(index, table)
    op.drop_index("ix_latency_rollups_day", "latency_rollups")
    for name in ("cost_rank", "use_rank", "level"):
        op.drop_index(f"ix_budgets_{name}", "budgets")
    op.drop_column("budgets", "use_rank")
    op.drop_column("budgets", "cost_rank")


_BY_DAY = (("ix_usage_rollups_day", "usage_rollups"), ("ix_tag_rollups_day", "tag_rollups"))
_BY_HOUR = (("ix_usage_rollups_hour", "usage_rollups"), ("ix_tag_rollups_hour", "tag_rollups"))


def _indexes() -> None:
    for name, columns, those in (
        ("cost_rank", "cost_rank desc", "level = 2"),
        ("use_rank", "use_rank desc", "use_rank is not null"),
        ("level", "level", "level < 2"),
    ):
        op.create_index(f"ix_budgets_{name}", "budgets", [sa.text(columns)], postgresql_where=sa.text(those))
    for index, table in _BY_DAY:
        op.create_index(index, table, [sa.text(f"({_DAY})")], postgresql_where=sa.text("grain = 'day'"))
    for index, table in _BY_HOUR:
        op.create_index(index, table, ["start"], postgresql_where=sa.text("grain = 'hour'"))
    op.create_index("ix_latency_rollups_day", "latency_rollups", [sa.text(f"({_LATENCY_DAY})")])


def _comment(view: str) -> None:
    columns = op.get_bind().execute(
        sa.text("select attname from pg_attribute where attrelid = to_regclass(:view) and attnum > 0"),
        {"view": f"reports.{view}"},
    )
    for column in columns.scalars().all():
        comment = COMMENTS[view].get(column) or _COMMON[column]
        quoted = comment.replace("'", "''")
        op.execute(f"comment on column reports.{view}.{column} is '{quoted}'")


def _let_role_read() -> None:
    # Roles belong to the server: another database may have made it, or be making it now, or nobody may here.
    op.execute(f"""
        do $$ begin
            create role {ROLE} nologin;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'the role {ROLE} was not made: who migrates may not make roles';
        end $$
    """)
    op.execute(f"""
        do $$ begin
            grant usage on schema reports to {ROLE};
            grant select on all tables in schema reports to {ROLE};
        exception when undefined_object then null;
        end $$
    """)
