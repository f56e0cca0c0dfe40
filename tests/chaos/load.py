"""Drive many threads through a fleet, and read from the database how they ended."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

PARALLEL_INJECTS = 50
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call: what the provider handed out, or what the ledger booked. Tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Ends:
    """How the threads of a run ended, from PostgreSQL."""

    statuses: Mapping[str, int]
    open_threads: int
    answers: Mapping[str, int]  # thread -> messages to `api`
    counts: Mapping[int, int]  # messages in a thread -> threads
    open_messages: int


async def until(condition: Callable[[], Awaitable[bool]], *, limit: float = 90.0) -> None:
    """Poll until the condition holds; TimeoutError after `limit` seconds."""
    async with asyncio.timeout(limit):
        while not await condition():  # noqa: ASYNC110 - it is about other processes
            await asyncio.sleep(POLL_SECONDS)


async def inject_all(urls: Sequence[str], target: str, payload: Mapping[str, Any], count: int) -> list[str]:
    """Inject `count` threads, round robin over the gateways, each with a key of its own; the ids of the threads."""
    gate = asyncio.Semaphore(PARALLEL_INJECTS)
    async with httpx.AsyncClient(timeout=30.0, limits=httpx.Limits(max_connections=PARALLEL_INJECTS)) as client:

        async def one(number: int) -> str:
            async with gate:
                answer = await client.post(
                    f"{urls[number % len(urls)]}/api/v1/inject",
                    json={"to": target, "payload": payload},
                    headers={"Idempotency-Key": uuid4().hex},
                )
            answer.raise_for_status()
            return str(answer.json()["threadId"])

        return list(await asyncio.gather(*(one(number) for number in range(count))))


async def active_threads(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many threads have something open."""
    return int(await connection.fetchval("select count(*) from threads where status = 'active'"))


async def closed_messages(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many messages have been closed."""
    return int(await connection.fetchval("select count(*) from messages where state = 'closed'"))


async def read_ends(connection: asyncpg.Connection[asyncpg.Record]) -> Ends:
    """How everything ended."""
    statuses = await connection.fetch("select status, count(*) from threads group by 1")
    answers = await connection.fetch("select thread_id::text, count(*) from messages where to_id = 'api' group by 1")
    counts = await connection.fetch("select slots, count(*) from threads group by 1")
    return Ends(
        statuses={row[0]: row[1] for row in statuses},
        open_threads=int(await connection.fetchval("select count(*) from threads where open <> 0")),
        answers={row[0]: row[1] for row in answers},
        counts={row[0]: row[1] for row in counts},
        open_messages=int(await connection.fetchval("select count(*) from messages where state <> 'closed'")),
    )


async def booked_calls(connection: asyncpg.Connection[asyncpg.Record], kind: str) -> dict[str, Call]:
    """What the ledger has booked as `measured` or `expired`, by call id."""
    rows = await connection.fetch(
        "select call_id::text, prompt_tokens, completion_tokens from usage_events where kind = $1", kind
    )
    return {row[0]: Call(row[1], row[2]) for row in rows}


def answered_calls(log: Path) -> dict[str, Call]:
    """What the provider handed out, from its ground truth; no call id may come twice."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    times = Counter(line["call_id"] for line in lines)
    repeated = [call for call, count in times.items() if count > 1]
    if repeated:
        raise AssertionError(f"{len(repeated)} calls were answered under one id: {repeated[:3]}")
    return {line["call_id"]: Call(line["prompt_tokens"], line["completion_tokens"]) for line in lines}
