"""Six calls of three threads, made by hand: what reports say of them can be counted on one's fingers."""

# ruff: noqa: S608 - all of it is written here

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support.derived_books import DERIVE

_A, _B, _C = (f"00000000-0000-0000-0000-00000000000{letter}" for letter in "abc")

# Blue: grok and claude on the first day, the latter from a cache. Red, for acme: grok, and a model without a price that
# reported no tokens. A third without tags: a hold that expired, and grok once more in the second period.
_MADE = f"""
insert into usage_periods (period, started_at) values (2, '2026-01-03 00:00+00');
update organism_state set usage_period = 2;
insert into threads (id, tags, created_at, last_activity) values
    ('{_A}', '{{"team": "blue"}}', '2026-01-01 10:00+00', '2026-01-01 12:00+00'),
    ('{_B}', '{{"team": "red", "customer": "acme"}}', '2026-01-02 08:00+00', '2026-01-02 10:00+00'),
    ('{_C}', '{{}}', '2026-01-02 11:00+00', '2026-01-03 09:00+00');
insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion, state,
    period, granted_at, expires_at)
values
    ('00000000-0000-0000-0000-000000000005', '{_C}', '{_C}', 'writer', 'claude-sonnet-4-5', 'anthropic', 3000, 1000,
        'expired', 1, '2026-01-02 12:00+00', '2026-01-02 13:00+00'),
    ('00000000-0000-0000-0000-000000000007', '{_A}', '{_A}', 'writer', 'claude-sonnet-4-5', 'anthropic', 150, 50,
        'held', 1, '2026-01-01 12:00+00', '2026-01-01 13:00+00');
insert into usage_events (call_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
    cache_read_tokens, latency_us, cost, uncached_cost, price_id, kind, period, granted_at, booked_at)
select cast(lpad(call, 32, '0') as uuid), cast(thread as uuid), agent, model, provider, prompt, completion, cached,
    latency_us, cost, uncached, price, kind, period, cast(granted as timestamptz), '2026-01-03 12:00+00'
from (values
    ('1', '{_A}', 'planner', 'grok-4.1', 'xai', 1000, 200, null::int, 800000, 0.006, null::numeric, 1,
        'measured', 1, '2026-01-01 10:10+00'),
    ('2', '{_A}', 'writer', 'claude-sonnet-4-5', 'anthropic', 4000, 500, 3000, 2000000, 0.0114, 0.0195, 2,
        'measured', 1, '2026-01-01 11:20+00'),
    ('3', '{_B}', 'planner', 'grok-4.1', 'xai', 2000, 400, null, 1000000, 0.012, null, 1,
        'measured', 1, '2026-01-02 09:00+00'),
    ('4', '{_B}', 'writer', 'nobody-knows-it', 'local', 500, 100, null, 400000, 0, null, null,
        'estimated', 1, '2026-01-02 09:30+00'),
    ('5', '{_C}', 'writer', 'claude-sonnet-4-5', 'anthropic', 3000, 1000, null, null, 0.024, null, 2,
        'expired', 1, '2026-01-02 12:00+00'),
    ('6', '{_C}', 'planner', 'grok-4.1', 'xai', 1000, 100, null, 1200000, 0.0045, null, 1,
        'measured', 2, '2026-01-03 08:00+00')
) as calls (call, thread, agent, model, provider, prompt, completion, cached, latency_us, cost, uncached, price, kind,
    period, granted);
"""

# The first thread is nearly exhausted, and one of its agents too; the third has no limit.
_LIMITS = f"""
update budgets set base_tokens = 6000 where id = '{_A}';
update budgets set base_tokens = 9007199254740991 where id = '{_C}';
update budgets set base_tokens = 10000 where tag_key = 'customer';
insert into budgets (id, level, thread_id, agent_id, ancestors, base_tokens, held, prompt_tokens, completion_tokens,
    requests, cost, created_at)
select '00000000-0000-0000-0000-0000000000aa', 3, id, 'writer', ancestors || id, 5000, 200, 4000, 500, 1, 0.0114,
    created_at
from budgets where id = '{_A}';
"""

# Today and six days ago, so that what counts days from today says the same every day.
_LATELY = f"""
update threads set created_at = now() - interval '3 days', last_activity = now() where id in ('{_A}', '{_B}');
update usage_rollups set start = start + (date_trunc('day', now(), 'UTC') - '2026-01-03 00:00+00') where grain = 'day'
    and start > '2026-01-02 12:00+00';
update usage_rollups set start = start + (date_trunc('day', now(), 'UTC') - '2026-01-07 00:00+00') where grain = 'day'
    and start = '2026-01-01 00:00+00';
update tag_rollups set start = start + (date_trunc('day', now(), 'UTC') - '2026-01-02 00:00+00') where grain = 'day'
    and start = '2026-01-02 00:00+00';
"""


async def fill(connection: AsyncConnection) -> None:
    """Write the sample into an empty database."""
    await _run(connection, _MADE)
    for statement in DERIVE:
        await connection.execute(text(statement))
    await _run(connection, _LIMITS)


async def move_to_today(connection: AsyncConnection) -> None:
    """Have the sums of the third day be of today, those of the first of six days ago, and those of one tag of today."""
    await _run(connection, _LATELY)


async def _run(connection: AsyncConnection, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):
        await connection.exec_driver_sql(statement)
