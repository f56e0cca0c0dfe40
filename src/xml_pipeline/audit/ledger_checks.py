"""The ledger from first principles: what holds and events say, against budgets and rollups. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check

_DAY = "date_trunc('day', {}, 'UTC')"
# Sums of months that were archived cannot be made again by hour; they are compared by month.
_KEPT = "date_trunc('month', {}, 'UTC') not in (select cast(month as timestamp) at time zone 'UTC' from usage_archives)"
_GRAINS = "(values ('hour'), ('day')) as grains (grain)"
_BUCKET = "greatest(0, ceil(ln(cast(greatest(latency_us, 1) as float8) / 1000) / ln(cast(1.05 as float8))))"

# Every call once, whether it is still a hold, an event, or part of what was archived.
_ENTRIES = """
    with entries as (
        select thread_id, agent_id, sum(cast(prompt_bound as bigint) + max_completion) as held, 0 as prompt_tokens,
            0 as completion_tokens, 0 as requests, 0 as cost
        from holds where state = 'held' group by 1, 2
        union all
        select thread_id, agent_id, 0, sum(prompt_tokens), sum(completion_tokens), count(*), sum(cost)
        from usage_events group by 1, 2
        union all
        select thread_id, agent_id, 0, sum(prompt_tokens), sum(completion_tokens), sum(requests), sum(cost)
        from carried_forward group by 1, 2
    ), used as (
        select thread_id, agent_id, sum(held) as held, sum(prompt_tokens) as prompt_tokens,
            sum(completion_tokens) as completion_tokens, sum(requests) as requests, sum(cost) as cost
        from entries group by 1, 2
    ), nodes as (
        select b.id, u.* from used u join budgets b on b.level = 0
        union all
        select b.id, u.* from used u join threads t on t.id = u.thread_id cross join jsonb_each_text(t.tags) as tag
            left join budgets b on b.level = 1 and b.tag_key = tag.key and b.tag_value = tag.value
        union all
        select b.id, u.* from used u left join budgets b on b.id = u.thread_id and b.level = 2
        union all
        select b.id, u.* from used u join budgets b
            on b.level = 3 and b.thread_id = u.thread_id and b.agent_id = u.agent_id
    ), expected as (
        select id, sum(held) as held, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
            sum(requests) as requests, sum(cost) as cost
        from nodes group by id
    )
"""
_NAMED = """coalesce(case b.level when 0 then 'organism' when 1 then 'tag ' || b.tag_key || '=' || b.tag_value
    when 2 then 'thread ' || b.id else b.agent_id || ' in thread ' || b.thread_id end, 'no budget')"""


def _budgets(columns: tuple[str, ...]) -> str:
    expected = ", ".join(f"coalesce(e.{name}, 0)" for name in columns)
    found = ", ".join(f"b.{name}" for name in columns)
    differs = " or ".join(f"coalesce(e.{name}, 0) is distinct from b.{name}" for name in columns)
    return f"""{_ENTRIES}
        select {_NAMED} as key, concat_ws(' ', {expected}) as expected, concat_ws(' ', {found}) as found
        from expected e full join budgets b on b.id = e.id where {differs}"""  # noqa: S608 - no input of anybody


def _compared(table: str, keys: tuple[str, ...], sums: tuple[str, ...], events: str, where: str) -> str:
    """Rows of a rollup that are not the sums of events. What sums up to nothing may have a row or not."""
    columns = ", ".join((*keys, *sums))
    nothing = f"requests = 0 and {' and '.join(f'{name} = 0' for name in sums)}"
    key = f"concat_ws(' ', {', '.join(f'coalesce(e.{name}, r.{name})' for name in keys)})"
    same = " and ".join(f"r.{name} = e.{name}" for name in keys)
    return f"""
        with e as ({events}), r as (select {columns} from {table} where {where} and not ({nothing}))
        select {key} as key,
            concat_ws(' ', {", ".join(f"e.{name}" for name in sums)}) as expected,
            concat_ws(' ', {", ".join(f"r.{name}" for name in sums)}) as found
        from e full join r on {same}
        where {" or ".join(f"r.{name} is distinct from e.{name}" for name in sums)}"""  # noqa: S608 - no input


_ROLLED = {
    "requests": "count(*)",
    "estimated": "count(*) filter (where kind = 'estimated')",
    "expired": "count(*) filter (where kind = 'expired')",
    "unpriced": "count(*) filter (where price_id is null)",
    "prompt_tokens": "sum(prompt_tokens)",
    "completion_tokens": "sum(completion_tokens)",
    "cache_read_tokens": "coalesce(sum(cache_read_tokens), 0)",
    "cache_write_tokens": "coalesce(sum(cache_write_tokens), 0)",
    "reasoning_tokens": "coalesce(sum(reasoning_tokens), 0)",
    "audio_tokens": "coalesce(sum(audio_prompt_tokens), 0) + coalesce(sum(audio_completion_tokens), 0)",
    "image_tokens": "coalesce(sum(image_prompt_tokens), 0) + coalesce(sum(image_completion_tokens), 0)",
    "latency_us": "coalesce(sum(latency_us), 0)",
    "cost": "sum(cost)",
    "uncached_cost": "sum(coalesce(uncached_cost, cost))",
}
_TAGGED = {name: _ROLLED[name] for name in ("requests", "prompt_tokens", "completion_tokens", "cost")}


def _selected(sums: dict[str, str]) -> str:
    return ", ".join(f"{value} as {name}" for name, value in sums.items())


_USAGE_KEYS = ("period", "grain", "start", "agent_id", "model", "provider")
_USAGE_EVENTS = f"""
    select period, grain, date_trunc(grain, granted_at, 'UTC') as start, agent_id, model, provider, {_selected(_ROLLED)}
    from usage_events cross join {_GRAINS} where {_KEPT.format("granted_at")} group by 1, 2, 3, 4, 5, 6
"""  # noqa: S608 - no input of anybody

_TAG_KEYS = ("period", "grain", "start", "tag_id", "model", "provider")
_TAG_EVENTS = f"""
    select period, grain, date_trunc(grain, granted_at, 'UTC') as start, b.id as tag_id, model, provider,
        count(*) as requests, sum(e.prompt_tokens) as prompt_tokens, sum(e.completion_tokens) as completion_tokens,
        sum(e.cost) as cost
    from usage_events e join threads t on t.id = e.thread_id cross join jsonb_each_text(t.tags) as tag
        join budgets b on b.level = 1 and b.tag_key = tag.key and b.tag_value = tag.value cross join {_GRAINS}
    where {_KEPT.format("granted_at")} group by 1, 2, 3, 4, 5, 6
"""  # noqa: S608 - no input of anybody

_LATENCY_EVENTS = f"""
    select {_DAY.format("granted_at")} as day, model, provider, cast({_BUCKET} as smallint) as bucket,
        count(*) as requests
    from usage_events where latency_us is not null and {_KEPT.format("granted_at")} group by 1, 2, 3, 4
"""  # noqa: S608 - no input of anybody

_MONTH = "cast(date_trunc('month', {}, 'UTC') at time zone 'UTC' as date)"
_MONTH_KEYS = ("month", "period", "agent_id", "model", "provider")
_ARCHIVED_EVENTS = f"""
    select month, period, agent_id, model, provider, sum(requests) as requests, sum(prompt_tokens) as prompt_tokens,
        sum(completion_tokens) as completion_tokens, sum(cost) as cost
    from (
        select month, period, agent_id, model, provider, requests, prompt_tokens, completion_tokens, cost
        from carried_forward
        union all
        select {_MONTH.format("granted_at")}, period, agent_id, model, provider, 1, prompt_tokens, completion_tokens,
            cost
        from usage_events where not ({_KEPT.format("granted_at")})
    ) as both_of_them group by 1, 2, 3, 4, 5
"""  # noqa: S608 - no input of anybody
_ARCHIVED_ROLLUPS = f"""(
    select {_MONTH.format("start")} as month, period, agent_id, model, provider, sum(requests) as requests,
        sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens, sum(cost) as cost
    from usage_rollups where grain = 'day' and not ({_KEPT.format("start")}) group by 1, 2, 3, 4, 5
) as archived"""  # noqa: S608 - no input of anybody

LEDGER_CHECKS = (
    Check("held", "budgets hold what the open holds below them say", _budgets(("held",))),
    Check(
        "spent",
        "budgets have spent what the events below them say",
        _budgets(("prompt_tokens", "completion_tokens", "requests", "cost")),
    ),
    Check(
        "usage-rollups",
        "sums by hour and day are those of the events",
        _compared("usage_rollups", _USAGE_KEYS, tuple(_ROLLED), _USAGE_EVENTS, _KEPT.format("start")),
    ),
    Check(
        "tag-rollups",
        "sums of tags are those of the events of their threads",
        _compared("tag_rollups", _TAG_KEYS, tuple(_TAGGED), _TAG_EVENTS, _KEPT.format("start")),
    ),
    Check(
        "latency-rollups",
        "histograms of latencies are those of the events",
        _compared(
            "latency_rollups",
            ("day", "model", "provider", "bucket"),
            ("requests",),
            _LATENCY_EVENTS,
            _KEPT.format("day"),
        ),
    ),
    Check(
        "archived-months",
        "sums of archived months are what was carried forward",
        _compared(_ARCHIVED_ROLLUPS, _MONTH_KEYS, tuple(_TAGGED), _ARCHIVED_EVENTS, "true"),
    ),
)
