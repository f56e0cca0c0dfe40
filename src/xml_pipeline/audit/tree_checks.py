"""The tree of budgets from first principles: its shape, what is held and spent below each node, limits. SQL alone."""

from __future__ import annotations

from xml_pipeline.audit.model import Check
from xml_pipeline.storage.budget_rows import ORGANISM_ID

# The threshold that says that nothing is left; it fires whatever others are configured.
_FULL = 100
_SPENT = ("prompt_tokens", "completion_tokens", "requests", "cost")

# Every call once, whether it is still a hold, an event, or part of what was archived.
_HOLDS = """
    select thread_id, agent_id, sum(cast(prompt_bound as bigint) + max_completion) as held
    from holds where state = 'held' group by 1, 2
"""
_EVENTS = """
    select thread_id, agent_id, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
        sum(requests) as requests, sum(cost) as cost
    from (
        select thread_id, agent_id, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
            count(*) as requests, sum(cost) as cost
        from usage_events group by 1, 2
        union all
        select thread_id, agent_id, prompt_tokens, completion_tokens, requests, cost from carried_forward
    ) as entries group by 1, 2
"""

NAMED = """case b.level when 0 then 'organism' when 1 then 'tag ' || b.tag_key || '=' || b.tag_value
    when 2 then 'thread ' || b.id when 3 then b.agent_id || ' in thread ' || b.thread_id end"""
"""What people call the node `b`."""


def _budgets(used: str, columns: tuple[str, ...]) -> str:
    """Nodes that are not the sums of what was `used` by the threads and agents below them.

    Which those are is found by what a thread's tags say, not by what the nodes say of each other.
    """
    sums = ", ".join(f"sum({name}) as {name}" for name in columns)
    expected = ", ".join(f"coalesce(e.{name}, 0)" for name in columns)
    found = ", ".join(f"b.{name}" for name in columns)
    differs = " or ".join(f"coalesce(e.{name}, 0) is distinct from b.{name}" for name in columns)
    return f"""
        with used as ({used}), nodes as (
            select b.id, 'the organism' as wanted, u.* from used u left join budgets b on b.level = 0
            union all
            select b.id, tag.key || '=' || tag.value, u.* from used u join threads t on t.id = u.thread_id
                cross join jsonb_each_text(t.tags) as tag
                left join budgets b on b.level = 1 and b.tag_key = tag.key and b.tag_value = tag.value
            union all
            select b.id, cast(u.thread_id as text), u.* from used u
                left join budgets b on b.id = u.thread_id and b.level = 2
            union all
            select b.id, '', u.* from used u join budgets b
                on b.level = 3 and b.thread_id = u.thread_id and b.agent_id = u.agent_id
        ), e as (
            select id, case when id is null then wanted end as wanted, {sums} from nodes group by 1, 2
        )
        select coalesce({NAMED}, 'no budget of ' || e.wanted) as key, concat_ws(' ', {expected}) as expected,
            concat_ws(' ', {found}) as found
        from e full join budgets b on b.id = e.id where {differs}"""  # noqa: S608 - no input of anybody


# `ancestors` are ids that differ: they are the right ones where there are as many, and all of those.
_TREE = f"""
    with tagged as (
        select t.id as thread_id, array_agg(b.id) as ids
        from threads t cross join jsonb_each_text(t.tags) as tag
            left join budgets b on b.level = 1 and b.tag_key = tag.key and b.tag_value = tag.value
        group by 1
    ), above as (
        select b.id, b.level, b.ancestors, cast('{{}}' as uuid[]) as expected
        from budgets b where b.level = 0
        union all
        select b.id, b.level, b.ancestors, array[cast('{ORGANISM_ID}' as uuid)]
        from budgets b where b.level = 1
        union all
        select b.id, b.level, b.ancestors,
            case when t.id is not null then cast('{ORGANISM_ID}' as uuid) || coalesce(g.ids, '{{}}') end
        from budgets b left join threads t on t.id = b.id and b.thread_id = b.id
            left join tagged g on g.thread_id = t.id
        where b.level = 2
        union all
        select b.id, b.level, b.ancestors, p.ancestors || p.id
        from budgets b left join budgets p on p.id = b.thread_id and p.level = 2 where b.level = 3
    )
    select {NAMED} as key, cast(a.expected as text) as expected, cast(a.ancestors as text) as found
    from above a join budgets b using (id)
    where not coalesce(a.ancestors @> a.expected and cardinality(a.ancestors) = cardinality(a.expected)
            and (a.level = 0 or a.ancestors[1] = '{ORGANISM_ID}'), false)
        or (a.level = 0) <> (a.id = '{ORGANISM_ID}')
    union all
    select 'tag ' || tag_key || '=' || tag_value, '1', cast(count(*) as text)
    from budgets where level = 1 group by tag_key, tag_value having count(*) > 1
"""  # noqa: S608 - no input of anybody

# A top-up has what was told of before told again. What was corrected may have been told of, and is below it now.
_THRESHOLDS = f"""
    with given as (select thread_id, count(*) as n from top_ups group by 1),
    told as (
        select d.budget_id, d.threshold, count(*) as times from webhook_deliveries d group by 1, 2
    )
    select {NAMED} || ' at ' || told.threshold as key,
        'at most ' || 1 + coalesce(given.n, 0) as expected, cast(told.times as text) as found
    from told join budgets b on b.id = told.budget_id left join given on given.thread_id = b.id
    where told.times > 1 + coalesce(given.n, 0)
    union all
    select {NAMED}, cast(max(told.threshold) as text), cast(b.fired as text)
    from told join budgets b on b.id = told.budget_id
    where not exists (select from given where given.thread_id = b.id)
    group by b.id having max(told.threshold) > b.fired
    union all
    select {NAMED}, '{_FULL}', cast(b.fired as text) from budgets b
    where b.level = 2 and b.prompt_tokens + b.completion_tokens >= greatest(b.max_tokens, 1) and b.fired < {_FULL}
"""  # noqa: S608 - no input of anybody

TREE_CHECKS = (
    Check("paths", "each budget lies below the organism, the tags of its thread, and its thread", _TREE),
    Check("held", "budgets hold what the open holds below them say", _budgets(_HOLDS, ("held",))),
    Check("spent", "budgets have spent what the events below them say", _budgets(_EVENTS, _SPENT)),
    Check(
        "top-ups",
        "a budget was topped up by what its top-ups say",
        f"""select coalesce({NAMED}, 'no budget of ' || t.thread_id) as key,
               cast(coalesce(t.tokens, 0) as text) as expected, cast(coalesce(b.topped_up, 0) as text) as found
           from budgets b full join (select thread_id, sum(tokens) as tokens from top_ups group by 1) t
               on t.thread_id = b.id
           where coalesce(b.topped_up, 0) <> coalesce(t.tokens, 0)""",  # noqa: S608 - no input of anybody
    ),
    Check("thresholds", "a threshold is told of when it is reached, and once", _THRESHOLDS),
)
