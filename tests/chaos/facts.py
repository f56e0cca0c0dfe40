"""What a run has left behind, read from where it cannot be embellished: histories, the model's log, tables, queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import asyncpg

from tests.chaos.history import Operation, read_operations
from tests.chaos.load import Call, answered_calls
from tests.chaos.tools.broker_control import BrokerControl

Step = tuple[str, str, str]
"""from, to, kind"""


@dataclass(frozen=True, slots=True)
class Request:
    """A message from outside as the log has it, and what went back for it.

    `told`: the topic of the response, and of a study its rounds and findings; None where there was none.
    """

    id: str
    thread: str
    to: str
    topic: str
    replies: int
    errors: int
    told: str | None = None


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread: its status, and how often each step was taken in it."""

    id: str
    status: str
    steps: Counter[Step]


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter; `topic` of the request that it stands for, where it can be read."""

    code: str
    listener: str | None
    topic: str | None


class Booked(NamedTuple):
    """A row of the ledger. `living`: its thread was not killed, and a handler of it not cancelled for that."""

    call: str
    tokens: Call
    living: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """All of a run. `anomalies`: how many rows contradict each rule that the tables have to keep."""

    operations: Sequence[Operation]
    requests: Sequence[Request]
    threads: Mapping[str, Thread]
    letters: Sequence[Letter]
    truth: Mapping[str, Call]
    measured: Sequence[Booked]
    expired: Sequence[Booked]
    anomalies: Mapping[str, int]
    queued: Mapping[str, int] = field(default_factory=dict)
    lost_attempts: int = 0
    idle_turns: int = 0  # handler runs whose turn had no effect
    crashes: Sequence[str] = ()


_KEYS = "period, agent_id, model, provider"
_ROLLED = f"""select {_KEYS}, start, sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost)
    from usage_rollups where grain = 'hour' and requests <> 0 group by {_KEYS}, start"""  # noqa: S608 - no input of anybody
_SUMMED = f"""select {_KEYS}, date_bin('1 hour', granted_at, timestamptz '2000-01-01 00:00:00+00'), count(*),
    sum(prompt_tokens), sum(completion_tokens), sum(cost) from usage_events group by {_KEYS}, 5"""  # noqa: S608 - no input of anybody

ANOMALIES = {
    "messages never closed": "select count(*) from messages where state <> 'closed'",
    "injects never taken": "select count(*) from inbox where taken_at is null",
    "threads never ended": "select count(*) from threads where status = 'active' or open <> 0",
    "slots with holes": """select count(*) from threads t where slots <>
        (select count(*) from messages m where m.thread_id = t.id)""",
    "calls left open": """select count(*) from calls c join threads t on t.id = c.thread_id
        where t.status <> 'killed' and (c.open <> 0 or c.pending <> 0)""",
    "callers left waiting": """select count(*) from calls c join threads t on t.id = c.thread_id
        where t.status <> 'killed' and c.awaited and not c.answered""",
    "calls answered twice": """select count(*) from (select c.id from calls c join messages m on m.answers = c.id
        group by 1 having count(*) > 1) twice""",
    "handled messages without their one turn": """select count(*) from messages m where outcome = 'handled' and 1 <>
        (select count(*) from turns t where t.message_id = m.id and t.counted and t.outcome = 'ok')""",
    "counted turns of messages that were not handled": """select count(*) from turns t where counted and outcome = 'ok'
        and not exists (select from messages m where m.id = t.message_id and m.outcome = 'handled')""",
    "holds never settled": "select count(*) from holds where state = 'held'",
    "budgets whose held is not their holds": """select count(*) from budgets b where level = 2 and held <>
        (select coalesce(sum(prompt_bound + max_completion), 0) from holds h
        where h.thread_id = b.thread_id and h.state = 'held')""",
    "budgets whose spent is not their events": """select count(*) from budgets b
        where level = 2 and (prompt_tokens, completion_tokens) <>
        (select coalesce(sum(e.prompt_tokens), 0), coalesce(sum(e.completion_tokens), 0)
        from usage_events e where e.thread_id = b.thread_id)""",
    "budgets overspent": "select count(*) from budgets where prompt_tokens + completion_tokens > max_tokens",
    "rollups that are not the sums of events": f"""select count(*) from (
        ({_ROLLED} except {_SUMMED}) union all ({_SUMMED} except {_ROLLED})) off""",  # noqa: S608 - no input
}

_TOPIC = "substring(convert_from(body, 'UTF8') from '<topic>([^<]*)</topic>')"

_TOLD = """concat_ws(' ', substring(convert_from(a.body, 'UTF8') from '<topic>([^<]*)</topic>'),
    substring(convert_from(a.body, 'UTF8') from '<rounds>([^<]*)</rounds>'),
    substring(convert_from(a.body, 'UTF8') from '<findings>([^<]*)</findings>'))"""

_REQUESTS = f"""
select m.id::text, m.thread_id::text, m.to_id, {_TOPIC.replace("body", "m.body")} as topic,
       count(a.id)::int as replies, (count(a.id) filter (where a.kind = 'error'))::int as errors,
       string_agg({_TOLD}, ' + ') filter (where a.kind = 'response') as told
from messages m left join messages a on a.answers = m.id and a.to_id = 'api'
where m.from_id = 'api' group by m.id
"""  # noqa: S608 - no input of anybody

_STEPS = "select thread_id::text, from_id, to_id, kind, count(*)::int from messages group by 1, 2, 3, 4"

_LETTERS = f"select code, listener, {_TOPIC} as topic from dead_letters"  # noqa: S608 - no input of anybody

# Attempts that ended in nothing that anybody reported: what a deadline found.
_LOST_ATTEMPTS = """
select coalesce(sum(greatest(0, m.attempt - 1 - (select count(*) from turns t where t.message_id = m.id and t.counted
    and t.outcome <> 'ok' and t.attempt < m.attempt))), 0)::int
from messages m where m.attempt > 1 and m.outcome <> 'killed'
"""

_IDLE_TURNS = """
select count(*)::int from turns r join messages m on m.id = r.message_id join threads t on t.id = m.thread_id
where not r.counted and t.status <> 'killed'
"""

_BOOKED = """
select e.call_id::text, e.prompt_tokens, e.completion_tokens, t.status <> 'killed'
from usage_events e join threads t on t.id = e.thread_id where e.kind = $1
"""


async def read_facts(
    database_url: str, queued: Mapping[str, int], history: Path, log: Path, crashes: Sequence[str]
) -> Facts:
    """Read everything; nothing of the organism needs to run any more. `log`: what the model has answered."""
    connection = await asyncpg.connect(database_url)
    try:
        return Facts(
            operations=read_operations(history),
            requests=[Request(*row) for row in await connection.fetch(_REQUESTS)],
            threads=await _threads(connection),
            letters=[Letter(*row) for row in await connection.fetch(_LETTERS)],
            truth=answered_calls(log),
            measured=await _booked(connection, "measured"),
            expired=await _booked(connection, "expired"),
            anomalies={name: int(await connection.fetchval(query)) for name, query in ANOMALIES.items()},
            queued=queued,
            lost_attempts=await connection.fetchval(_LOST_ATTEMPTS),
            idle_turns=await connection.fetchval(_IDLE_TURNS),
            crashes=tuple(crashes),
        )
    finally:
        await connection.close()


async def _threads(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, Thread]:
    statuses = await connection.fetch("select id::text, status from threads")
    threads = {id_: Thread(id_, status, Counter()) for id_, status in statuses}
    for thread, sender, to, kind, count in await connection.fetch(_STEPS):
        threads[thread].steps[sender, to, kind] = count
    return threads


async def _booked(connection: asyncpg.Connection[asyncpg.Record], kind: str) -> list[Booked]:
    rows = await connection.fetch(_BOOKED, kind)
    return [Booked(row[0], Call(row[1], row[2]), row[3]) for row in rows]


def depths(amqp_url: str, queues: Sequence[str]) -> dict[str, int]:
    """Messages that are ready in queues; a queue that does not exist counts as -1. Not for use in an event loop."""
    found = BrokerControl(amqp_url).queues(queues)
    return {name: -1 if state is None else state.ready for name, state in found.items()}


def read_facts_now(
    database_url: str, amqp_url: str, queues: Sequence[str], history: Path, log: Path, crashes: Sequence[str]
) -> Facts:
    """As `read_facts`, for callers outside an event loop."""
    return asyncio.run(read_facts(database_url, depths(amqp_url, queues), history, log, crashes))
