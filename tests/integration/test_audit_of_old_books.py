"""The books of a database that was migrated are clean: what was kept before is not held against anybody."""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

import pytest
from sqlalchemy import text

from xml_pipeline.audit.closing import close_books
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate_database

_THREAD = "00000000-0000-0000-0000-00000000000a"
# One thread that has spent all it had, in two periods: measured, expired, without a price, and one call open.
_OLD = (
    "update organism_state set usage_period = 2, period_started_at = '2026-02-01 00:00+00'",
    f"insert into threads (id, status, slots) values ('{_THREAD}', 'completed', 1)",
    f"""insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state)
        values ('{_THREAD}', '{_THREAD}', 0, 'api', 'writer', 'request', 'question', '', true, 'closed')""",
    f"""insert into budgets (thread_id, max_tokens, held, prompt_tokens, completion_tokens)
        values ('{_THREAD}', 1000, 30, 700, 300)""",
    f"""insert into usage_events (call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens,
            completion_tokens, latency_ms, cost, priced, kind, period, granted_at)
        select cast(lpad(call, 32, '0') as uuid), cast(message as uuid), '{_THREAD}', 'writer', model, 'xai', prompt,
            completion, latency, cost, priced, kind, period, cast(granted as timestamptz)
        from (values
            ('1', '{_THREAD}', 'grok-4.1', 400, 100, 800.25, 0.0027, true, 'measured', 1, '2026-01-31 23:59+00'),
            ('2', null, 'nobody-knows-it', 200, 100, 20, 0, false, 'measured', 2, '2026-02-01 10:00+00'),
            ('3', '{_THREAD}', 'grok-4.1', 100, 100, 0, 0.0018, true, 'expired', 2, '2026-02-02 10:00+00')
        ) as calls (call, message, model, prompt, completion, latency, cost, priced, kind, period, granted)""",
    f"""insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion,
            state, period, granted_at, expires_at)
        select cast(lpad(call, 32, '0') as uuid), '{_THREAD}', '{_THREAD}', 'writer', 'grok-4.1', 'xai', prompt,
            completion, state, 2, cast(granted as timestamptz), now() + interval '1 hour'
        from (values ('1', 500, 200, 'settled', '2026-01-31 23:59+00'), ('3', 100, 100, 'expired',
            '2026-02-02 10:00+00'), ('4', 20, 10, 'held', '2026-02-03 10:00+00'))
            as calls (call, prompt, completion, state, granted)""",
)


@pytest.mark.parametrize("error", [None, "update budgets set fired = 0 where level = 2"])
async def test_what_was_booked_before_the_tree_is_clean(empty_database_url: str, error: str | None) -> None:
    await migrate_database(empty_database_url, revision="0002")
    db = Database.connect(empty_database_url)
    try:
        async with db.begin() as connection:
            for statement in _OLD:
                await connection.execute(text(statement))
        await migrate_database(empty_database_url)
        if error is not None:
            async with db.begin() as connection:
                await connection.execute(text(error))
        audit = await close_books(db)
    finally:
        await db.close()
    assert [one.check for one in audit.differences] == ([] if error is None else ["thresholds"]), audit.differences
    assert (audit.pending.open_holds, audit.pending.held_tokens) == (1, 30)
