"""Fifty LLM calls at once on a budget for ten, all the way: gateway, router, worker, ledger."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from tests.integration.ledger_support import check_books, numbers
from tests.support.processes import free_port
from xml_pipeline.embedded import Place, run_embedded
from xml_pipeline.llm.scripted import LOG_VARIABLE
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.database import Database
from xml_pipeline.terminal.readiness import wait_until_running

ORGANISM = """
organism: {name: burst, max_tokens_per_thread: 5000}
llm:
  provider: scripted
  model: grok-4.1
  max_completion_tokens: 100
  script: burst.everything
  options: {latency: 0.02}
listeners:
  - name: burst
    payload_class: burst.Burst
    response_class: burst.Made
    handler: burst.burst
    description: Asks many times at once
    agent: true
"""
MODULE = """
import asyncio
from dataclasses import dataclass

from xml_pipeline.llm import BudgetExhausted, complete
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Burst:
    calls: int


@dataclass
class Made:
    made: int
    denied: int


def everything(request):
    return ScriptedReply("x", prompt_tokens=400, completion_tokens=100)


async def burst(payload: Burst, metadata: HandlerMetadata) -> HandlerResponse:
    prompt = "x" * (400 - 16 - 16)
    results = await asyncio.gather(*(complete(prompt) for _ in range(payload.calls)), return_exceptions=True)
    denied = [result for result in results if isinstance(result, BudgetExhausted)]
    made = [result for result in results if not isinstance(result, BaseException)]
    return HandlerResponse.respond(Made(made=len(made), denied=len(denied)))
"""


async def test_exactly_ten_are_made(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "organism.yaml").write_text(ORGANISM)
    (tmp_path / "burst.py").write_text(MODULE)
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "truth.jsonl"))
    place = Place("127.0.0.1", free_port(), tmp_path, database_url=database_url, worker_processes=1)
    stop = asyncio.Event()
    organism = asyncio.create_task(
        run_embedded(load_organism(tmp_path / "organism.yaml"), place, stop=stop, instance="test")
    )
    try:
        await wait_until_running(place.url)
        async with httpx.AsyncClient(base_url=f"{place.url}/api/v1", timeout=60) as api:
            body = {"to": "burst", "payload": {"calls": 50}}
            answer = (await api.post("/inject", json=body, headers={"Prefer": "wait=50"})).json()
            budget = (await api.get(f"/usage/threads/{answer['threadId']}")).json()
            totals = (await api.get("/usage")).json()["usage"]["totals"]
    finally:
        stop.set()
        await organism
    assert {"made": 10, "denied": 40}.items() <= answer["reply"]["payload"].items()
    assert (budget["totalTokens"], budget["remaining"], budget["isExhausted"]) == (5000, 0, True)
    assert (totals["requestCount"], totals["totalTokens"], totals["totalCost"]) == (10, 5000, 0.027)
    answered = [json.loads(line)["call_id"] for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    await ledger_has_exactly(answered, database_url)


async def ledger_has_exactly(answered: list[str], database_url: str) -> None:
    db = Database.connect(database_url)
    booked = await numbers(db, "select array_agg(call_id::text order by call_id) from usage_events")
    assert booked == (sorted(answered),)
    await check_books(db)
    await db.close()
