"""Records of the ledger that have to fit each other: holds, events, messages, prices, periods. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check

# What a month that was archived held is not there to be compared with.
_ARCHIVED = """exists (select from usage_archives a
    where a.month = cast(date_trunc('month', h.granted_at, 'UTC') at time zone 'UTC' as date))"""

_EXPIRED = f"""
    select * from (
        select cast(coalesce(h.call_id, e.call_id) as text) as key,
            concat_ws(' ', h.prompt_bound, h.max_completion, h.agent_id, h.model, h.provider, h.period, h.thread_id,
                h.granted_at) as expected,
            concat_ws(' ', e.prompt_tokens, e.completion_tokens, e.agent_id, e.model, e.provider, e.period,
                e.thread_id, e.granted_at) as found
        from (select * from holds where state = 'expired') h
        full join (select * from usage_events where kind = 'expired') e using (call_id)
        where not (e.call_id is null and {_ARCHIVED})
    ) as expired where expected <> found
"""  # noqa: S608 - no input of anybody


def _messages(table: str) -> str:
    """Rows that are not of the thread and the agent of their message. Old events may have none."""
    return f"""
        select cast(e.call_id as text) as key,
            coalesce(m.to_id || ' in ' || m.thread_id, case when e.message_id is null then 'a thread' else 'a message'
                end) as expected,
            e.agent_id || ' in ' || e.thread_id as found
        from {table} e left join messages m on m.id = e.message_id
        where (e.message_id is not null and m.id is null) or (m.thread_id, m.to_id) <> (e.thread_id, e.agent_id)
            or (e.message_id is null and not exists (select from threads t where t.id = e.thread_id))"""  # noqa: S608


def _rate(kind: str, whole: str | None = None) -> str:
    """A rate of a card; a kind without one is charged as what it is part of, and counts by what it costs more."""
    if whole is None:
        return f"coalesce(cast(rates ->> '{kind}' as numeric), 0) as {kind}"
    part = f"cast(coalesce(rates ->> '{kind}', rates ->> '{whole}', '0') as numeric)"
    return f"{part} - coalesce(cast(rates ->> '{whole}' as numeric), 0) as {kind}"


_RATES = ", ".join(
    (
        *(_rate(kind) for kind in ("input", "output", "requests")),
        *(_rate(kind, "input") for kind in ("cache_read", "cache_write", "audio_input", "image_input")),
        *(_rate(kind, "output") for kind in ("audio_output", "image_output", "reasoning")),
    )
)

# Kinds of tokens are taken from a total one after the other, none more than is left of it.
_COSTS = f"""
    with cards as materialized (select id, {_RATES} from prices where source <> 'before'),
    first as (
        select call_id, cost, uncached_cost, price_id, cache_read_tokens, cache_write_tokens, audio_prompt_tokens,
            image_prompt_tokens, image_completion_tokens, reasoning_tokens,
            prompt_tokens as prompt, completion_tokens as completion,
            least(coalesce(cache_read_tokens, 0), prompt_tokens) as read,
            least(coalesce(audio_completion_tokens, 0), completion_tokens) as spoken
        from usage_events where price_id is not null
    ), second as (
        select *, least(coalesce(cache_write_tokens, 0), prompt - read) as written,
            least(coalesce(image_completion_tokens, 0), completion - spoken) as drawn
        from first
    ), third as (
        select *, least(coalesce(audio_prompt_tokens, 0), prompt - read - written) as heard,
            least(coalesce(reasoning_tokens, 0), completion - spoken - drawn) as reasoned
        from second
    ), fourth as (
        select *, least(coalesce(image_prompt_tokens, 0), prompt - read - written - heard) as seen from third
    ), charged as (
        select f.*, c.cache_read * f.read + c.cache_write * f.written as cached,
            c.requests + c.input * f.prompt + c.output * f.completion + c.audio_input * f.heard
                + c.image_input * f.seen + c.audio_output * f.spoken + c.image_output * f.drawn
                + c.reasoning * f.reasoned as uncached
        from fourth f join cards c on c.id = f.price_id
    ), costs as (
        select call_id, cost, uncached_cost, (uncached + cached) * 0.000001 as expected,
            case when num_nulls(cache_read_tokens, cache_write_tokens) < 2 then uncached * 0.000001 end
                as expected_uncached
        from charged
    )
    select cast(call_id as text) as key,
        concat_ws(' ', trim_scale(expected), trim_scale(expected_uncached)) as expected,
        concat_ws(' ', trim_scale(cost), trim_scale(uncached_cost)) as found
    from costs where cost <> expected or uncached_cost is distinct from expected_uncached
"""  # noqa: S608 - no input of anybody

# A call that is granted while a period begins may belong to either. Periods before the oldest that is known, and those
# of which only the number is known, have no beginning to compare with.
_PERIODS = """
    with periods as (
        select period, started_at, lead(started_at) over (order by period) as ended_at,
            started_at < '1971-01-01 00:00+00' or period = min(period) over () as early
        from usage_periods
    )
    select cast(e.call_id as text) as key, 'granted in period ' || e.period as expected,
        cast(e.granted_at as text) as found
    from usage_events e left join periods p using (period)
    where p.period is null or (not p.early and e.granted_at < p.started_at)
        or (p.ended_at > '1971-01-01 00:00+00' and e.granted_at > p.ended_at + interval '1 minute')
"""

RECORD_CHECKS = (
    Check(
        "one-booking",
        "every call is booked once",
        """select cast(call_id as text) as key, '1' as expected, cast(count(*) as text) as found
           from usage_events group by call_id having count(*) > 1""",
    ),
    Check(
        "holds-of-booked-calls",
        "a call that is booked has no hold, except one that expired",
        """select cast(call_id as text) as key, 'no hold' as expected, h.state as found
           from holds h join usage_events e using (call_id) where h.state <> 'expired'""",
    ),
    Check(
        "expired-holds",
        "a hold that expired is booked as expired, at its size, and what is booked so had one",
        _EXPIRED,
    ),
    Check("messages-of-events", "an event is of the thread and the agent of its message", _messages("usage_events")),
    Check("messages-of-holds", "a hold is of the thread and the agent of its message", _messages("holds")),
    Check(
        "prices",
        "the price that a call was charged by is known, and a call without one costs nothing",
        """select cast(e.call_id as text) as key, coalesce(cast(e.price_id as text), '0') as expected,
               case when e.price_id is null then cast(e.cost as text) else 'no such price' end as found
           from usage_events e left join prices p on p.id = e.price_id
           where (e.price_id is not null and p.id is null) or (e.price_id is null and e.cost <> 0)""",
    ),
    Check("costs", "a call costs what the rates say that it was charged by", _COSTS),
    Check("periods", "usage belongs to the period in which it was granted", _PERIODS),
)
