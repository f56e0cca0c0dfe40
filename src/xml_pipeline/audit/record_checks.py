"""Records that have to fit each other: holds, events, messages, prices, limits, counters. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check

# What a month that was archived held is not there to be compared with.
_ARCHIVED = """exists (select from usage_archives a
    where a.month = cast(date_trunc('month', h.granted_at, 'UTC') at time zone 'UTC' as date))"""

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
        "a hold that expired is booked as expired, and what is booked so had one",
        f"""select cast(coalesce(h.call_id, e.call_id) as text) as key, h.state as expected, e.kind as found
            from (select * from holds where state = 'expired') h
            full join (select * from usage_events where kind = 'expired') e using (call_id)
            where (h.call_id is null or e.call_id is null) and not {_ARCHIVED}""",  # noqa: S608 - no input of anybody
    ),
    Check(
        "messages-of-events",
        "an event is of the thread and the agent of its message",
        """select cast(e.call_id as text) as key, coalesce(m.to_id || ' in ' || m.thread_id, 'a message') as expected,
               e.agent_id || ' in ' || e.thread_id as found
           from usage_events e left join messages m on m.id = e.message_id
           where m.id is null or (m.thread_id, m.to_id) <> (e.thread_id, e.agent_id)""",
    ),
    Check(
        "prices",
        "the price that a call was charged by is known, and a call without one costs nothing",
        """select cast(e.call_id as text) as key, coalesce(cast(e.price_id as text), '0') as expected,
               case when e.price_id is null then cast(e.cost as text) else 'no such price' end as found
           from usage_events e left join prices p on p.id = e.price_id
           where (e.price_id is not null and p.id is null) or (e.price_id is null and e.cost <> 0)""",
    ),
    Check(
        "top-ups",
        "a budget was topped up by what its top-ups say",
        """select cast(coalesce(b.id, t.thread_id) as text) as key, cast(coalesce(t.tokens, 0) as text) as expected,
               cast(coalesce(b.topped_up, 0) as text) as found
           from budgets b full join (select thread_id, sum(tokens) as tokens from top_ups group by 1) t
               on t.thread_id = b.id
           where coalesce(b.topped_up, 0) <> coalesce(t.tokens, 0)""",
    ),
    Check(
        "paths",
        "a thread's budget lies below the organism and the tags of the thread",
        """select cast(b.id as text) as key, coalesce(tags.names, '') as expected, coalesce(above.names, '') as found
           from budgets b join threads t on t.id = b.thread_id
           cross join lateral (
               select string_agg(key || '=' || value, ' ' order by key) as names from jsonb_each_text(t.tags)
           ) tags
           cross join lateral (
               select string_agg(a.tag_key || '=' || a.tag_value, ' ' order by a.tag_key) filter (where a.level = 1)
                   as names, count(*) filter (where a.level = 0) as roots, count(*) filter (where a.id = t.id) as own
               from budgets a where a.id = any(b.ancestors)
           ) above
           where b.level in (2, 3) and (tags.names is distinct from above.names or above.roots <> 1
               or above.own <> b.level - 2)""",
    ),
    Check(
        "open-messages",
        "a thread counts what of it is open, and its messages have slots without holes",
        """select cast(t.id as text) as key, concat_ws(' ', coalesce(m.open, 0) + coalesce(i.n, 0), coalesce(m.n, 0))
               as expected, concat_ws(' ', t.open, t.slots) as found
           from threads t
           left join (select thread_id, count(*) as n, count(*) filter (where state <> 'closed') as open
                      from messages group by 1) m on m.thread_id = t.id
           left join (select thread_id, count(*) as n from inbox where taken_at is null group by 1) i
               on i.thread_id = t.id
           where t.open <> coalesce(m.open, 0) + coalesce(i.n, 0) or t.slots <> coalesce(m.n, 0)""",
    ),
    Check(
        "open-calls",
        "a call waits for as many answers as its requests owe it",
        """select cast(c.id as text) as key, cast(coalesce(owed.n, 0) as text) as expected,
               cast(c.pending as text) as found
           from calls c join threads t on t.id = c.thread_id
           left join (select parent, count(*) as n from calls where awaited and not answered group by 1) owed
               on owed.parent = c.id
           where t.status <> 'killed' and c.pending <> coalesce(owed.n, 0)""",
    ),
)
