"""What the tests of the ledger share: messages to hold for, and the sums that have to agree."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import insert, text

from xml_pipeline.llm.pricing import Prices
from xml_pipeline.message_bus.messages import HoldRequest, UsageEvent
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.tables import messages, threads

PRICING = Prices().cost
MODEL = "grok-4.1"


async def handled_message(
    db: Database,
    thread: UUID | None = None,
    agent: str = "greeter",
    slot: int = 0,
    tags: Mapping[str, str] | None = None,
) -> UUID:
    """A message that `agent` is handling now, in a thread of its own unless given."""
    message = uuid4()
    async with db.begin() as connection:
        if thread is None:
            thread = uuid4()
        exists = await connection.scalar(text("select 1 from threads where id = :id"), {"id": thread})
        if not exists:
            await connection.execute(insert(threads).values(id=thread, open=1, tags=dict(tags or {})))
        await connection.execute(
            insert(messages).values(
                id=message,
                thread_id=thread,
                slot=slot,
                from_id="api",
                to_id=agent,
                kind="request",
                payload_type="greeting",
                body=b"<greeting/>",
                mailbox=False,
                state="out",
            )
        )
    return message


def ask(message: UUID, *, call: UUID | None = None, prompt: int = 60, completion: int = 40) -> HoldRequest:
    """A hold request."""
    return HoldRequest(
        call_id=call or uuid4(),
        message_id=message,
        model=MODEL,
        provider="xai",
        prompt_bound=prompt,
        max_completion=completion,
        lifetime=60,
    )


def used(message: UUID, call: UUID, *, prompt: int = 10, completion: int = 5, at: datetime | None = None) -> UsageEvent:
    """A usage event."""
    return UsageEvent(
        call_id=call,
        message_id=message,
        granted_at=at or datetime.now(UTC),
        model=MODEL,
        provider="xai",
        prompt_tokens=prompt,
        completion_tokens=completion,
        latency_ms=12.5,
    )


# What each node of the tree has to hold and to have spent, found by what a thread's tags say.
_FROM_FIRST = """
    with nodes as (
        select b.id, h.thread_id, h.agent_id from budgets b, (
            select thread_id, agent_id from holds union select thread_id, agent_id from usage_events
        ) h join threads t on t.id = h.thread_id
        where case b.level when 0 then true
                           when 1 then t.tags ->> b.tag_key = b.tag_value
                           when 2 then b.id = h.thread_id
                           else b.thread_id = h.thread_id and b.agent_id = h.agent_id end
    ), held as (
        select id, sum(prompt_bound + max_completion) as held
        from nodes join holds using (thread_id, agent_id) where state = 'held' group by 1
    ), spent as (
        select id, sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
               count(*) as requests, sum(cost) as cost
        from nodes join usage_events using (thread_id, agent_id) group by 1
    )
    select b.id, b.level, b.held, h.held, b.prompt_tokens, s.prompt_tokens, b.completion_tokens, s.completion_tokens
    from budgets b left join held h using (id) left join spent s using (id)
    where (b.held, b.prompt_tokens, b.completion_tokens, b.requests, b.cost) <> (
        coalesce(h.held, 0), coalesce(s.prompt_tokens, 0), coalesce(s.completion_tokens, 0), coalesce(s.requests, 0),
        coalesce(s.cost, 0))
"""

_ROLLUPS = """
    select period, grain, start, agent_id, model, provider, requests, estimated, expired, unpriced, prompt_tokens,
           completion_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_tokens, image_tokens,
           latency_us, cost, uncached_cost
    from usage_rollups where requests <> 0 order by 1, 2, 3, 4, 5, 6
"""

_ROLLUPS_FROM_EVENTS = """
    select period, grain, date_trunc(grain, granted_at, 'UTC'), agent_id, model, provider, count(*),
           count(*) filter (where kind = 'estimated'), count(*) filter (where kind = 'expired'),
           count(*) filter (where price_id is null), sum(prompt_tokens), sum(completion_tokens),
           coalesce(sum(cache_read_tokens), 0), coalesce(sum(cache_write_tokens), 0),
           coalesce(sum(reasoning_tokens), 0),
           coalesce(sum(audio_prompt_tokens), 0) + coalesce(sum(audio_completion_tokens), 0),
           coalesce(sum(image_prompt_tokens), 0) + coalesce(sum(image_completion_tokens), 0),
           coalesce(sum(latency_us), 0), sum(cost), sum(coalesce(uncached_cost, cost))
    from usage_events, (values ('hour'), ('day')) as grains (grain) group by 1, 2, 3, 4, 5, 6
    order by 1, 2, 3, 4, 5, 6
"""

_TAGS = """
    select period, grain, start, tag_key, tag_value, model, provider, r.requests, r.prompt_tokens, r.completion_tokens,
           r.cost
    from tag_rollups r join budgets b on b.id = r.tag_id where r.requests <> 0 order by 1, 2, 3, 4, 5, 6, 7
"""

_TAGS_FROM_EVENTS = """
    select period, grain, date_trunc(grain, granted_at, 'UTC'), key, value, model, provider, count(*),
           sum(prompt_tokens), sum(completion_tokens), sum(cost)
    from usage_events e join threads t on t.id = e.thread_id, jsonb_each_text(t.tags),
         (values ('hour'), ('day')) as grains (grain)
    group by 1, 2, 3, 4, 5, 6, 7 order by 1, 2, 3, 4, 5, 6, 7
"""

_LATENCIES = """
    select day, model, provider, bucket, requests from latency_rollups where requests <> 0 order by 1, 2, 3, 4
"""

_LATENCIES_FROM_EVENTS = """
    select date_trunc('day', granted_at, 'UTC'), model, provider,
           greatest(0, ceil(ln(cast(greatest(latency_us, 1) as float8) / 1000) / ln(cast(1.05 as float8)))), count(*)
    from usage_events where latency_us is not null group by 1, 2, 3, 4 order by 1, 2, 3, 4
"""


async def check_books(db: Database) -> None:
    """Budgets are the sums of holds and events on every path, and rollups those of events."""
    pairs = ((_ROLLUPS, _ROLLUPS_FROM_EVENTS), (_TAGS, _TAGS_FROM_EVENTS), (_LATENCIES, _LATENCIES_FROM_EVENTS))
    async with db.begin() as connection:
        await connection.execute(text("set transaction isolation level repeatable read"))
        assert (await connection.execute(text(_FROM_FIRST))).all() == []
        for kept, from_events in pairs:
            found = (await connection.execute(text(kept))).all()
            assert found == (await connection.execute(text(from_events))).all()


async def numbers(db: Database, sql: str, **parameters: object) -> tuple[object, ...]:
    """One row."""
    async with db.begin() as connection:
        return tuple((await connection.execute(text(sql), parameters)).one())
