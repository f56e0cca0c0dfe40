"""Threads, messages and calls from first principles: what is counted, against what there is. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check

# Requests from outside that ended in an error, until a redrive has them go on: those that opened a call by its last
# answer; those that were refused before that; those that could not even become a message.
_FAILED = """
    with redriven as (select distinct redrive_of as id from messages where redrive_of is not null),
    failed as (
        select m.thread_id from messages m join calls c on c.id = m.answers
        where m.to_id = 'api' and m.kind = 'error' and c.parent is null and c.answered
            and not exists (select from messages l where l.answers = m.answers and l.slot > m.slot)
        union all
        select m.thread_id from messages m
        where m.to_id = 'api' and m.kind = 'error' and m.from_id = 'system'
            and not exists (select from calls c where c.id = m.answers)
            and not exists (select from redriven r where r.id = m.answers)
        union all
        select i.thread_id from inbox i
        where i.taken_at is not null and i.letter_id is null
            and not exists (select from messages m where m.id = i.id)
            and not exists (select from redriven r where r.id = i.id)
    ), counted as (select thread_id, count(*) as n from failed group by 1)
    select cast(t.id as text) as key, cast(coalesce(c.n, 0) as text) as expected, cast(t.failed as text) as found
    from threads t left join counted c on c.thread_id = t.id
    where t.status <> 'killed' and t.failed <> coalesce(c.n, 0)
"""

THREAD_CHECKS = (
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
    Check("failed-requests", "a thread counts which of its requests from outside failed", _FAILED),
    Check(
        "thread-status",
        "a thread is active while something of it is open, and then completed, or has an error",
        """select * from (
               select cast(id as text) as key,
                   case when open > 0 then 'active' when failed > 0 then 'error' else 'completed' end as expected,
                   status as found
               from threads where status <> 'killed'
           ) as threads where found <> expected""",
    ),
    Check(
        "open-calls",
        "a call counts the messages that are open in it, and the answers that its requests owe it",
        """select cast(c.id as text) as key, concat_ws(' ', coalesce(m.n, 0), coalesce(owed.n, 0)) as expected,
               concat_ws(' ', c.open, c.pending) as found
           from calls c join threads t on t.id = c.thread_id
           left join (select parent, count(*) as n from calls where awaited and not answered group by 1) owed
               on owed.parent = c.id
           left join (select call_id, count(*) as n from messages where state <> 'closed' and call_id is not null
                      group by 1) m on m.call_id = c.id
           where t.status <> 'killed' and (c.pending <> coalesce(owed.n, 0) or c.open <> coalesce(m.n, 0))""",
    ),
    Check(
        "parked-messages",
        "a message that is parked waits at the head of its mailbox",
        """select cast(id as text) as key, 'ready' as expected, state as found
           from messages where parked_for is not null and state <> 'ready'""",
    ),
)
