"""Threads through research-team, a worker and a router killed midway: each thread ends once, each token counts once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.load import (
    active_threads,
    answered_calls,
    booked_calls,
    closed_messages,
    inject_all,
    read_ends,
    until,
)
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organisms import renamed

# 2,000 with `make load`; less where all tests run.
THREADS = int(os.environ.get("LOAD_THREADS", "150"))
SECONDS = 60.0 + THREADS * 0.6
TOPIC = {"topic": "tides"}
TARGET = "planner"


@pytest.mark.chaos
@pytest.mark.timeout(SECONDS + 240)
async def test_every_thread_ends_once_and_every_token_is_counted_once(
    amqp_url: str, database_url: str, organism_name: str, tmp_path: Path
) -> None:
    log = tmp_path / "answered.jsonl"
    organism = renamed(ROOT / "examples" / "research-team", organism_name, tmp_path / "organism")
    fleet = Fleet(organism, amqp_url, database_url, tmp_path, {"ORGANISM_LLM_LOG": str(log)})
    connection = await asyncpg.connect(database_url)
    try:
        with running(fleet, {"gateway": 1, "usage": 1, "router": 2, "agent-worker": 3}):
            per_thread = await calm_thread(fleet, connection)
            await load_with_kills(fleet, connection, per_thread)
            await everything_ended(connection, per_thread)
            await every_token_is_booked(connection, log)
    finally:
        await connection.close()


async def calm_thread(fleet: Fleet, connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many messages a thread has when nothing is killed."""
    await inject_all(fleet.urls(), TARGET, TOPIC, 1)
    await until_quiet(connection, limit=60.0)
    (count,) = (await read_ends(connection)).counts
    return count


async def load_with_kills(fleet: Fleet, connection: asyncpg.Connection[asyncpg.Record], per_thread: int) -> None:
    started = time.monotonic()
    injecting = asyncio.create_task(inject_all(fleet.urls(), TARGET, TOPIC, THREADS))
    await until_closed(connection, THREADS * per_thread // 3)
    fleet.of("agent-worker")[0].kill()
    await until_closed(connection, THREADS * per_thread // 2)
    fleet.of("router")[0].kill()
    await injecting
    await until_quiet(connection, limit=SECONDS)
    print(f"{THREADS} threads of {per_thread} messages in {time.monotonic() - started:.1f} s")


async def until_closed(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    async def enough() -> bool:
        return await closed_messages(connection) >= count

    await until(enough, limit=SECONDS)


async def until_quiet(connection: asyncpg.Connection[asyncpg.Record], *, limit: float) -> None:
    async def quiet() -> bool:
        return await active_threads(connection) == 0

    await until(quiet, limit=limit)


async def everything_ended(connection: asyncpg.Connection[asyncpg.Record], per_thread: int) -> None:
    ends = await read_ends(connection)
    assert ends.statuses == {"completed": THREADS + 1}
    assert ends.open_threads == ends.open_messages == 0
    assert len(ends.answers) == THREADS + 1
    assert set(ends.answers.values()) == {1}
    assert ends.counts == {per_thread: THREADS + 1}


async def every_token_is_booked(connection: asyncpg.Connection[asyncpg.Record], log: Path) -> None:
    """A call whose event was lost with its worker is booked as expired, once its hold has run out."""
    handed_out = answered_calls(log)
    await until_settled(connection)
    measured, expired = await booked_calls(connection, "measured"), await booked_calls(connection, "expired")
    assert handed_out.keys() <= measured.keys() | expired.keys()
    assert {call: handed_out[call] for call in measured} == measured
    for call, booked in expired.items():
        truth = handed_out.get(call)
        if truth is not None:
            assert booked.prompt_tokens >= truth.prompt_tokens
            assert booked.completion_tokens >= truth.completion_tokens
    print(f"{len(handed_out)} calls answered: {len(measured)} measured, {len(expired)} expired")


async def until_settled(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async def settled() -> bool:
        return int(await connection.fetchval("select count(*) from holds where state = 'held'")) == 0

    await until(settled, limit=120)
