"""How long the books take to be closed: SIZE calls (1,000,000 unless the environment says otherwise) of 30 days.

They are those of the benchmark of reports, with the messages, holds and prices that they would have come from: all has
to be clean. Each check is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import asyncpg
import uvloop

from tests.benchmarks.reports import fill, size
from tests.support.postgres import start_postgres
from xml_pipeline.audit.closing import close_books
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate

# One message for each agent of a thread, in which it made its calls there.
_RECORDS = """
    insert into prices (id, provider, model, source, rates)
    select number, '', model, 'built-in',
        jsonb_build_object('input', price::text, 'output', output::text, 'cache_read', (price * 0.1)::text)
    from (values (0, 'grok-4.1', 3, 15), (1, 'gpt-4o', 2.5, 10), (2, 'gpt-4o-mini', 0.15, 0.6),
        (3, 'claude-sonnet-4-5', 3, 15), (4, 'claude-haiku-4-5', 1, 5)) as cards (number, model, price, output);
    insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state, outcome)
    select md5(thread_id || agent_id)::uuid, thread_id, row_number() over (partition by thread_id), 'api', agent_id,
        'request', 'question', convert_to(repeat('x', 300), 'UTF8'), true, 'closed', 'handled'
    from (select distinct thread_id, agent_id from usage_events) as agents;
    update threads set slots = (select count(*) from messages m where m.thread_id = threads.id);
    update usage_events set message_id = md5(thread_id || agent_id)::uuid;
    insert into holds (call_id, message_id, thread_id, agent_id, model, provider, prompt_bound, max_completion, state,
        period, granted_at, expires_at)
    select call_id, message_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens, 'expired',
        period, granted_at, granted_at + interval '1 minute'
    from usage_events where kind = 'expired';
"""


def run() -> Iterator[str]:
    """On a PostgreSQL of the benchmark's own."""
    databases = start_postgres(migrate=migrate, durable=True)
    try:
        yield from uvloop.run(timings(databases.create_database(), size()))
    finally:
        databases.close()


async def timings(url: str, count: int) -> list[str]:
    """Fill the empty database and close the books. Raises AssertionError where they are not clean."""
    await fill_books(url, count)
    db = Database.connect(url, pool_size=1, command_timeout=None)
    try:
        audit = await close_books(db)
    finally:
        await db.close()
    assert audit.clean, audit.differences
    seconds = {f"  {finding.check.name}": finding.seconds for finding in audit.findings}
    whole = {f"the books of {count:,} calls are closed": sum(seconds.values())}
    return [f"{name:<58} {took:>12,.2f} s" for name, took in (whole | seconds).items()]


async def fill_books(url: str, count: int) -> None:
    """Make `count` calls in an empty database, with all that they would have come from and all that is derived."""
    await fill(url, count)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_RECORDS)
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


def main() -> None:
    """Measure on the empty database that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="postgresql:// URL of an empty database with the current schema")
    url = parser.parse_args().url
    for line in run() if url is None else uvloop.run(timings(url, size())):
        print(line)


if __name__ == "__main__":
    main()
