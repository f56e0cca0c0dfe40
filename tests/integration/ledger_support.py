"""What the tests of the ledger share: messages to hold for, and the sums that have to agree."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import insert, text

from xml_pipeline.llm.pricing import Prices
from xml_pipeline.message_bus.messages import HoldRequest, UsageEvent
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.tables import messages, threads

PRICING = Prices().cost
MODEL = "grok-4.1"


async def handled_message(db: Database, thread: UUID | None = None, agent: str = "greeter", slot: int = 0) -> UUID:
    """A message that `agent` is handling now, in a thread of its own unless given."""
    message = uuid4()
    async with db.begin() as connection:
        if thread is None:
            thread = uuid4()
        exists = await connection.scalar(text("select 1 from threads where id = :id"), {"id": thread})
        if not exists:
            await connection.execute(insert(threads).values(id=thread, open=1))
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


_UNBALANCED = """
    select b.thread_id
    from budgets b
    left join (select thread_id, sum(prompt_bound + max_completion) as held
               from holds where state = 'held' group by 1) h using (thread_id)
    left join (select thread_id, sum(prompt_tokens) as prompt, sum(completion_tokens) as completion
               from usage_events group by 1) u using (thread_id)
    where b.held <> coalesce(h.held, 0) or b.prompt_tokens <> coalesce(u.prompt, 0)
       or b.completion_tokens <> coalesce(u.completion, 0)
"""

_ROLLUPS = """
    select period, hour, agent_id, model, provider, requests, prompt_tokens, completion_tokens, latency_ms, cost
    from usage_rollups where requests <> 0 order by 1, 2, 3, 4, 5
"""

_FROM_EVENTS = """
    select period, date_trunc('hour', granted_at), agent_id, model, provider, count(*), sum(prompt_tokens),
           sum(completion_tokens), sum(latency_ms), sum(cost)
    from usage_events group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
"""


async def check_books(db: Database) -> None:
    """Budgets are the sums of holds and events, and rollups those of events."""
    async with db.begin() as connection:
        await connection.execute(text("set transaction isolation level repeatable read"))
        assert (await connection.execute(text(_UNBALANCED))).all() == []
        rollups = (await connection.execute(text(_ROLLUPS))).all()
        assert rollups == (await connection.execute(text(_FROM_EVENTS))).all()


async def numbers(db: Database, sql: str, **parameters: object) -> tuple[object, ...]:
    """One row."""
    async with db.begin() as connection:
        return tuple((await connection.execute(text(sql), parameters)).one())
