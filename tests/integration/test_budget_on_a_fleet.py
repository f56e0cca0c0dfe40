"""Fifty calls in flight on a budget that covers ten, on four workers and two ledgers: ten are made, each time."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.integration.ledger_support import check_books
from tests.support.fleet import Fleet, running
from xml_pipeline.storage.database import Database

# A hundred by hand; fewer where all tests run.
ROUNDS = int(os.environ.get("BUDGET_ROUNDS", "5"))
CALLS, COVERED, EACH = 50, 10, 500

ORGANISM = """
organism: {name: NAME, max_tokens_per_thread: 5000}
llm:
  provider: scripted
  model: grok-4.1
  max_completion_tokens: 100
  script: burst.everything
  options: {latency: 0.02}
listeners:
  - name: lead
    payload_class: burst.Burst
    response_class: burst.Counted
    handler: burst.lead
    description: Has many callers call at once
    agent: true
    peers: [caller]
  - {name: caller, payload_class: burst.Call, response_class: burst.Made, handler: burst.call, description: Calls once}
"""
MODULE = """
from dataclasses import dataclass

from xml_pipeline.llm import BudgetExhausted, complete
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Burst:
    calls: int


@dataclass
class Call:
    number: int


@dataclass
class Made:
    made: int


@dataclass
class Counted:
    made: int
    denied: int


def everything(request):
    return ScriptedReply("x", prompt_tokens=400, completion_tokens=100)


async def call(payload: Call, metadata: HandlerMetadata) -> HandlerResponse:
    try:
        await complete("x" * (400 - 16 - 16))
    except BudgetExhausted:
        return HandlerResponse.respond(Made(0))
    return HandlerResponse.respond(Made(1))


async def lead(payload: Burst | Made, metadata: HandlerMetadata) -> list[HandlerResponse] | HandlerResponse | None:
    if metadata.kind == "request":
        return [HandlerResponse(payload=Call(number), to="caller") for number in range(payload.calls)]
    if metadata.remaining:
        return None
    made = payload.made + sum(reply.made for reply in metadata.replies)
    return HandlerResponse.respond(Counted(made, 1 + len(metadata.replies) - made))
"""


@pytest.mark.timeout(120 + 10 * ROUNDS)
async def test_exactly_what_is_covered_is_made_every_time(
    amqp_url: str, database_url: str, organism_name: str, tmp_path: Path
) -> None:
    (tmp_path / "organism.yaml").write_text(ORGANISM.replace("NAME", organism_name))
    (tmp_path / "burst.py").write_text(MODULE)
    log = tmp_path / "truth.jsonl"
    fleet = Fleet(tmp_path / "organism.yaml", amqp_url, database_url, tmp_path, {"ORGANISM_LLM_LOG": str(log)})
    with running(fleet, {"gateway": 1, "usage": 2, "router": 1, "agent-worker": 4}):
        answers = [await one_round(fleet.urls()[0]) for _ in range(ROUNDS)]
    assert Counter(made for _, made in answers) == {COVERED: ROUNDS}
    assert await spent_by_thread(database_url) == {thread: COVERED * EACH for thread, _ in answers}
    assert len({json.loads(line)["call_id"] for line in log.read_text().splitlines()}) == COVERED * ROUNDS
    db = Database.connect(database_url)
    await check_books(db)
    await db.close()


async def one_round(url: str) -> tuple[str, int]:
    """The thread, and how many calls were made."""
    body = {"to": "lead", "payload": {"calls": CALLS}}
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=60) as api:
        answer = (await api.post("/inject", json=body, headers={"Prefer": "wait=50"})).json()
    payload = answer["reply"]["payload"]
    assert payload.get("made", 0) + payload.get("denied", 0) == CALLS, payload
    return answer["threadId"], payload["made"]


async def spent_by_thread(database_url: str) -> dict[str, int]:
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "select thread_id::text, prompt_tokens + completion_tokens from budgets where level = 2 and held = 0"
        )
    finally:
        await connection.close()
    return {row[0]: row[1] for row in rows}
