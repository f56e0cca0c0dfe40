"""Budgets and rollups derived by SQL from raw usage, for tests and benchmarks that need many or certain numbers."""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

_HOUR = "date_bin('1 hour', granted_at, timestamptz '2000-01-01 00:00:00+00')"
_DAY = "date_bin('1 day', granted_at, timestamptz '2000-01-01 00:00:00+00')"
_START = f"case grain when 'day' then {_DAY} else {_HOUR} end"
_GRAINS = "(values ('hour'), ('day')) as grains (grain)"
_TAG_ID = "cast(md5(tag.key || '=' || tag.value) as uuid)"
ORGANISM = "(select id from budgets where level = 0)"
UNLIMITED = 2**53 - 1

# Of an empty ledger but for threads, holds and usage_events; all limits are unlimited but those of threads.
DERIVE = (
    f"""insert into usage_rollups (period, grain, start, agent_id, model, provider, requests, estimated, expired,
           unpriced, prompt_tokens, completion_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens,
           audio_tokens, image_tokens, latency_us, cost, uncached_cost)
       select period, grain, {_START}, agent_id, model, provider, count(*),
           count(*) filter (where kind = 'estimated'), count(*) filter (where kind = 'expired'),
           count(*) filter (where price_id is null), sum(prompt_tokens), sum(completion_tokens),
           coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
           coalesce(sum(reasoning_tokens), 0), 0, 0, coalesce(sum(latency_us), 0), sum(cost),
           sum(coalesce(uncached_cost, cost))
       from usage_events, {_GRAINS} group by 1, 2, 3, 4, 5, 6""",
    f"""insert into budgets (id, level, tag_key, tag_value, ancestors, base_tokens)
       select distinct {_TAG_ID}, 1, tag.key, tag.value, array[{ORGANISM}], {UNLIMITED}
       from threads, jsonb_each_text(tags) as tag""",
    f"""insert into tag_rollups (period, grain, start, tag_id, model, provider, requests, prompt_tokens,
           completion_tokens, cost)
       select period, grain, {_START}, {_TAG_ID}, model, provider, count(*), sum(prompt_tokens),
           sum(completion_tokens), sum(cost)
       from usage_events e join threads t on t.id = e.thread_id, jsonb_each_text(t.tags) as tag, {_GRAINS}
       group by 1, 2, 3, 4, 5, 6""",
    f"""insert into latency_rollups (day, model, provider, bucket, requests)
       select {_DAY}, model, provider,
           greatest(0, ceil(ln(cast(latency_us as float8) / 1000) / ln(cast(1.05 as float8)))), count(*)
       from usage_events where latency_us is not null group by 1, 2, 3, 4""",
    f"""insert into budgets (id, level, thread_id, ancestors, base_tokens, held, prompt_tokens, completion_tokens,
           requests, cost, created_at)
       select t.id, 2, t.id,
           array[{ORGANISM}] || array(select {_TAG_ID} from jsonb_each_text(t.tags) as tag), 100000,
           coalesce(h.held, 0), coalesce(e.prompt, 0), coalesce(e.completion, 0), coalesce(e.requests, 0),
           coalesce(e.cost, 0), t.created_at
       from threads t left join (
           select thread_id, sum(prompt_tokens) as prompt, sum(completion_tokens) as completion, count(*) as requests,
               sum(cost) as cost
           from usage_events group by 1
       ) e on e.thread_id = t.id left join (
           select thread_id, sum(prompt_bound + max_completion) as held from holds where state = 'held' group by 1
       ) h on h.thread_id = t.id""",
    """update budgets up set held = below.held, prompt_tokens = below.prompt_tokens,
           completion_tokens = below.completion_tokens, requests = below.requests, cost = below.cost
       from (
           select above, sum(held) as held, sum(prompt_tokens) as prompt_tokens,
               sum(completion_tokens) as completion_tokens, sum(requests) as requests, sum(cost) as cost
           from budgets, unnest(ancestors) as above where level = 2 group by 1
       ) below where up.id = below.above""",
)
