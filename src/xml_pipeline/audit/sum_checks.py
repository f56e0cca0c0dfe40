"""Sums from first principles: what events say, against rollups and what was carried forward. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check

_DAY = "date_trunc('day', {}, 'UTC')"
# Sums of months that were archived cannot be made again by hour; they are compared by month.
_KEPT = "date_trunc('month', {}, 'UTC') not in (select cast(month as timestamp) at time zone 'UTC' from usage_archives)"
_GRAINS = "(values ('hour'), ('day')) as grains (grain)"
_BUCKET = "greatest(0, ceil(ln(cast(greatest(latency_us, 1) as float8) / 1000) / ln(cast(1.05 as float8))))"


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


def _summed(sums: dict[str, str]) -> str:
    return ", ".join(f"sum({name}) as {name}" for name in sums)


_USAGE_KEYS = ("period", "grain", "start", "agent_id", "model", "provider")
_HOUR = "date_trunc('hour', {}, 'UTC')"
# The events are read once: days are sums of hours.
_USAGE_EVENTS = f"""
    select period, grain, date_trunc(grain, start, 'UTC') as start, agent_id, model, provider, {_summed(_ROLLED)}
    from (
        select period, {_HOUR.format("granted_at")} as start, agent_id, model, provider, {_selected(_ROLLED)}
        from usage_events where {_KEPT.format("granted_at")} group by 1, 2, 3, 4, 5
    ) as hours cross join {_GRAINS} group by 1, 2, 3, 4, 5, 6
"""  # noqa: S608 - no input of anybody

_TAG_KEYS = ("period", "grain", "start", "tag_id", "model", "provider")
_TAGS = """(
        select t.id as thread_id, b.id as tag_id from threads t cross join jsonb_each_text(t.tags) as tag
        join budgets b on b.level = 1 and b.tag_key = tag.key and b.tag_value = tag.value
    ) as tags"""
_TAG_EVENTS = f"""
    select period, grain, date_trunc(grain, start, 'UTC') as start, tag_id, model, provider, {_summed(_TAGGED)}
    from (
        select period, {_HOUR.format("granted_at")} as start, tag_id, model, provider, {_selected(_TAGGED)}
        from usage_events join {_TAGS} using (thread_id)
        where {_KEPT.format("granted_at")} group by 1, 2, 3, 4, 5
    ) as hours cross join {_GRAINS} group by 1, 2, 3, 4, 5, 6
"""  # noqa: S608 - no input of anybody

_LATENCY_EVENTS = f"""
    select {_DAY.format("granted_at")} as day, model, provider, cast({_BUCKET} as smallint) as bucket,
        count(*) as requests
    from usage_events where latency_us is not null and {_KEPT.format("granted_at")} group by 1, 2, 3, 4
"""  # noqa: S608 - no input of anybody

# Months that were archived: what was carried forward, and events that came after that.
_MONTH = "cast(date_trunc('month', {}, 'UTC') at time zone 'UTC' as date)"
_ARCHIVED = f"""(
        select month, period, thread_id, agent_id, model, provider, {", ".join(_TAGGED)} from carried_forward
        union all
        select {_MONTH.format("granted_at")}, period, thread_id, agent_id, model, provider, 1, prompt_tokens,
            completion_tokens, cost
        from usage_events where not ({_KEPT.format("granted_at")})
    ) as archived"""  # noqa: S608 - no input of anybody
_MONTH_KEYS = ("month", "period", "agent_id", "model", "provider")
_MONTH_TAG_KEYS = ("month", "period", "tag_id", "model", "provider")


def _by_month(keys: tuple[str, ...], table: str) -> str:
    return f"select {', '.join(keys)}, {_summed(_TAGGED)} from {table} group by 1, 2, 3, 4, 5"  # noqa: S608 - no input


def _days_by_month(keys: tuple[str, ...], table: str) -> str:
    names = ", ".join(keys[1:])
    return f"""(
        select {_MONTH.format("start")} as month, {names}, {_summed(_TAGGED)}
        from {table} where grain = 'day' and not ({_KEPT.format("start")}) group by 1, 2, 3, 4, 5
    ) as days"""  # noqa: S608 - no input of anybody


def _hours_and_days(table: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    """Rows of an archived month's days that are not the sums of its hours."""
    names = ("period", "start", *keys)
    hours = f"""select period, {_DAY.format("start")} as start, {", ".join(keys)},
            {", ".join(f"sum({name}) as {name}" for name in sums)}
        from {table} where grain = 'hour' and not ({_KEPT.format("start")}) group by 1, 2, 3, 4, 5"""  # noqa: S608
    days = f"(select * from {table} where grain = 'day' and not ({_KEPT.format('start')})) as days"  # noqa: S608
    return _compared(days, names, sums, hours, "true")


SUM_CHECKS = (
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
        _compared(
            _days_by_month(_MONTH_KEYS, "usage_rollups"),
            _MONTH_KEYS,
            tuple(_TAGGED),
            _by_month(_MONTH_KEYS, _ARCHIVED),
            "true",
        ),
    ),
    Check(
        "archived-tags",
        "sums of tags of archived months are what was carried forward",
        _compared(
            _days_by_month(_MONTH_TAG_KEYS, "tag_rollups"),
            _MONTH_TAG_KEYS,
            tuple(_TAGGED),
            _by_month(_MONTH_TAG_KEYS, f"{_ARCHIVED} join {_TAGS} using (thread_id)"),
            "true",
        ),
    ),
    Check(
        "archived-days",
        "days of archived months are the sums of their hours",
        _hours_and_days("usage_rollups", ("agent_id", "model", "provider"), tuple(_ROLLED)),
    ),
    Check(
        "archived-tag-days",
        "days of tags in archived months are the sums of their hours",
        _hours_and_days("tag_rollups", ("tag_id", "model", "provider"), tuple(_TAGGED)),
    ),
    Check(
        "archives",
        "as many events were carried forward as a month's file has",
        """select cast(coalesce(a.month, c.month) as text) as key, cast(a.events as text) as expected,
               cast(c.requests as text) as found
           from usage_archives a
           full join (select month, sum(requests) as requests from carried_forward group by 1) c using (month)
           where a.month is null or a.events <> coalesce(c.requests, 0)""",
    ),
)
