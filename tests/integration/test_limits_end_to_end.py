"""What happens at the limit, all the way: gateway, router, worker, ledger, with a handler that catches what it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.integration.ledger_support import check_books, numbers
from tests.support.processes import free_port
from xml_pipeline.embedded import Place, run_embedded
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.database import Database
from xml_pipeline.terminal.readiness import wait_until_running

LIMIT = 30.0
# Each call may take 500 tokens, and takes them.
ORGANISM = """
organism: {{name: limits, max_tokens_per_thread: 700}}
budgets: {{at_limit: {at_limit}}}
llm:
  provider: scripted
  model: grok-4.1
  max_completion_tokens: 100
  script: limits.everything
listeners:
  - name: asker
    payload_class: limits.Ask
    response_class: limits.Told
    handler: limits.ask
    description: Asks once, whatever comes of it
    agent: true
"""
MODULE = """
from dataclasses import dataclass

from xml_pipeline.llm import complete
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Ask:
    name: str


@dataclass
class Told:
    text: str


def everything(request):
    return ScriptedReply("done", prompt_tokens=400, completion_tokens=100)


async def ask(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    try:
        text = (await complete("x" * (400 - 16 - 16))).text
    except Exception as error:
        text = type(error).__name__
    return HandlerResponse.respond(Told(text=f"{payload.name} {text}"))
"""


@asynccontextmanager
async def _running(folder: Path, database_url: str, at_limit: str) -> AsyncIterator[httpx.AsyncClient]:
    (folder / "organism.yaml").write_text(ORGANISM.format(at_limit=at_limit))
    (folder / "limits.py").write_text(MODULE)
    place = Place("127.0.0.1", free_port(), folder, database_url=database_url, worker_processes=1)
    stop = asyncio.Event()
    organism = load_organism(folder / "organism.yaml")
    running = asyncio.create_task(run_embedded(organism, place, stop=stop, instance="test"))
    try:
        await wait_until_running(place.url)
        async with httpx.AsyncClient(base_url=f"{place.url}/api/v1", timeout=60) as api:
            yield api
    finally:
        stop.set()
        await running


async def _inject(api: httpx.AsyncClient, name: str, thread: str | None = None, *, wait: int = 0) -> Any:
    body = {"to": "asker", "payload": {"name": name}, "threadId": thread}
    return (await api.post("/inject", json=body, headers={"Prefer": f"wait={wait}"} if wait else {})).json()


async def _until(look: Callable[[], Awaitable[Any]]) -> Any:
    found = None
    async with asyncio.timeout(LIMIT):
        while not found:
            await asyncio.sleep(0.02)
            found = await look()
    return found


async def test_what_is_parked_goes_on_after_a_top_up(tmp_path: Path, database_url: str) -> None:
    async with _running(tmp_path, database_url, "park") as api:
        first = await _inject(api, "first", wait=30)
        assert first["reply"]["payload"] == {"text": "first done"}
        thread = first["threadId"]
        for name in ("second", "third"):
            await _inject(api, name, thread)

        async def parked() -> Any:
            budget = (await api.get(f"/usage/threads/{thread}")).json()
            return budget if budget["parkedMessages"] else None

        budget = await _until(parked)
        assert (budget["parkedMessages"], budget["remaining"], budget["heldTokens"]) == (1, 200, 0)
        assert (await api.get(f"/threads/{thread}")).json()["status"] == "active"
        assert (await api.get("/agents/asker")).json()["queueDepth"] == 2
        # Enough for one of them; the other waits in its turn.
        await api.post(f"/usage/threads/{thread}/top-up", json={"tokens": 300})
        await _until(lambda: _answers(api, thread, ["first done", "second done"]))
        budget = await _until(parked)
        assert (budget["maxTokens"], budget["remaining"], budget["topUps"]) == (1000, 0, 300)
        assert (await api.post("/inject", json=_into(thread))).status_code == 402
        await api.post(f"/usage/threads/{thread}/top-up", json={"tokens": 500})
        await _until(lambda: _answers(api, thread, ["first done", "second done", "third done"]))
        await _until(lambda: _has_status(api, thread, "completed"))
        assert (await api.get("/dead-letters")).json()["total"] == 0
    db = Database.connect(database_url)
    assert await numbers(db, "select count(*) from turns where outcome = 'parked' and counted") >= (2,)
    await check_books(db)
    await db.close()


async def test_a_kill_at_the_limit_ends_the_thread(tmp_path: Path, database_url: str) -> None:
    async with _running(tmp_path, database_url, "kill") as api:
        thread = (await _inject(api, "first", wait=30))["threadId"]
        await _inject(api, "second", thread)
        await _until(lambda: _has_status(api, thread, "killed"))
        assert (await api.post("/inject", json=_into(thread))).status_code == 409


async def test_a_denial_is_the_handlers_to_deal_with(tmp_path: Path, database_url: str) -> None:
    async with _running(tmp_path, database_url, "deny") as api:
        thread = (await _inject(api, "first", wait=30))["threadId"]
        denied = await _inject(api, "second", thread, wait=30)
        assert denied["reply"]["payload"] == {"text": "second BudgetExhausted"}
        assert await _has_status(api, thread, "completed")


def _into(thread: str) -> dict[str, Any]:
    return {"to": "asker", "payload": {"name": "more"}, "threadId": thread}


async def _has_status(api: httpx.AsyncClient, thread: str, status: str) -> bool:
    found: str = (await api.get(f"/threads/{thread}")).json()["status"]
    return found == status


async def _answers(api: httpx.AsyncClient, thread: str, texts: list[str]) -> bool:
    messages = (await api.get(f"/threads/{thread}/messages")).json()["messages"]
    return [message["payload"]["text"] for message in messages if message["to"] == "api"] == texts
