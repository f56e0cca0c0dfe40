"""The books are clean at any instant, whoever works on them: services of the ledger, or a whole organism."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.integration.ledger_support import PRICING, ask, handled_message, used
from tests.integration.routing_stage import until
from tests.support.processes import free_port
from xml_pipeline.audit.closing import close_books
from xml_pipeline.embedded import Place, run_embedded
from xml_pipeline.ledger import books
from xml_pipeline.ledger.intake import LedgerMessage
from xml_pipeline.ledger.model import Changes, Rules
from xml_pipeline.message_bus.messages import HoldRelease
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.organism.load import load_organism
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import reset_usage
from xml_pipeline.terminal.readiness import wait_until_running

RULES = Rules(10**9, Budgets(agents={"writer": 10**8}))
LIMIT = 60.0
DEADLOCK = "40P01"


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=12)
    yield database
    await database.close()


async def _audit_until(db: Database, work: asyncio.Future[Any]) -> int:
    """Close the books again and again until the work is done; how often."""
    looked = 0
    while not work.done():
        audit = await close_books(db)
        assert audit.clean, audit.differences
        looked += 1
    await work
    audit = await close_books(db)
    assert audit.clean, audit.differences
    return looked


async def _again(db: Database, *messages: LedgerMessage) -> Changes:
    """As a service does: a batch that came in another's way is done again."""
    while True:
        try:
            return await books.book(db, messages, rules=RULES, pricing=PRICING)
        except books.Conflict:
            continue
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != DEADLOCK:
                raise


async def _calls(db: Database, messages: list[UUID], rounds: int) -> None:
    """Calls that are measured, released, left to expire, told of twice, or come late."""
    for number in range(rounds):
        requests = [ask(messages[(number + n) % len(messages)]) for n in range(4)]
        replies = (await _again(db, *requests)).replies
        granted: list[datetime] = [reply.granted_at for reply in replies.values() if reply.granted_at is not None]
        first, second, third, fourth = requests
        event = used(first.message_id, first.call_id, at=granted[0])
        await _again(db, event, HoldRelease(call_id=second.call_id))
        async with db.begin() as connection:
            overdue = text("update holds set expires_at = now() where call_id = any(:ids) and state = 'held'")
            await connection.execute(overdue, {"ids": [third.call_id, fourth.call_id]})
        await _again(db, event, used(third.message_id, third.call_id, at=granted[2]))


async def _sweep(db: Database, calls: asyncio.Future[Any]) -> None:
    while not calls.done():
        await books.sweep(db, rules=RULES, pricing=PRICING)
        await asyncio.sleep(0)


async def _reset(db: Database, calls: asyncio.Future[Any]) -> None:
    while not calls.done():
        async with db.begin() as connection:
            await reset_usage(connection, actor="somebody")
        await asyncio.wait([calls], timeout=0.5)


async def test_services_book_expire_and_reset_while_the_books_are_closed(db: Database) -> None:
    messages = [await handled_message(db, uuid4(), agent="writer", tags={"team": team}) for team in ("blue", "red")]
    messages.append(await handled_message(db))
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))
    calls = asyncio.gather(*(_calls(db, messages, rounds=25) for _ in range(3)))
    work = asyncio.gather(calls, _sweep(db, calls), _reset(db, calls))
    assert await _audit_until(db, work) > 3


_ORGANISM = """
organism: {name: busy}
budgets: {agents: {boss: 1000000}}
llm: {provider: scripted, model: grok-4.1, max_completion_tokens: 50, script: busy.everything}
listeners:
  - name: boss
    payload_class: busy.Order
    response_class: busy.Done
    handler: busy.boss
    description: Thinks, and has two workers do it, or fails
    agent: true
    retry: {attempts: 2, backoff: 0.01}
    peers: [hand]
  - name: hand
    payload_class: busy.Task
    response_class: busy.Done
    handler: busy.hand
    description: Does it, or fails at it
    retry: {attempts: 2, backoff: 0.01}
"""
_MODULE = """
from dataclasses import dataclass

from xml_pipeline.llm import complete
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Order:
    name: str


@dataclass
class Task:
    name: str


@dataclass
class Done:
    text: str


def everything(request):
    return ScriptedReply("done", prompt_tokens=40, completion_tokens=10)


async def boss(payload, metadata: HandlerMetadata):
    if isinstance(payload, Order):
        await complete(payload.name)
        if payload.name.endswith("9"):
            raise ValueError("nine")
        return [HandlerResponse(payload=Task(name=payload.name), to="hand") for _ in range(2)]
    if metadata.remaining:
        return None
    return HandlerResponse.respond(Done(text="all"))


async def hand(payload: Task, metadata: HandlerMetadata) -> HandlerResponse:
    if payload.name.endswith("7"):
        raise ValueError("seven")
    return HandlerResponse.respond(Done(text=payload.name))
"""


@asynccontextmanager
async def _running(folder: Path, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    (folder / "organism.yaml").write_text(_ORGANISM)
    (folder / "busy.py").write_text(_MODULE)
    place = Place("127.0.0.1", free_port(), folder, database_url=database_url, worker_processes=1)
    stop, organism = asyncio.Event(), load_organism(folder / "organism.yaml")
    running = asyncio.create_task(run_embedded(organism, place, stop=stop, instance="test"))
    try:
        await wait_until_running(place.url)
        async with httpx.AsyncClient(base_url=f"{place.url}/api/v1", timeout=LIMIT) as api:
            yield api
    finally:
        stop.set()
        await asyncio.wait_for(running, LIMIT)


async def _order(api: httpx.AsyncClient, number: int) -> str:
    body = {"to": "boss", "payload": {"name": f"order {number}"}, "tags": {"team": f"team {number % 3}"}}
    answer = await api.post("/inject", json=body, headers={"Prefer": "wait=30"} if number % 2 else {})
    if number % 5 == 3:
        await api.post(f"/threads/{answer.json()['threadId']}/kill")
    return str(answer.raise_for_status().json()["threadId"])


async def _work(api: httpx.AsyncClient, db: Database, clients: int, each: int) -> None:
    async def client(first: int) -> None:
        for number in range(first, clients * each, clients):
            await _order(api, number)

    await asyncio.gather(*(client(number) for number in range(clients)))
    await until(lambda: _nothing_open(db))


async def _nothing_open(db: Database) -> bool:
    async with db.begin() as connection:
        found = await connection.execute(
            text(
                """select not exists (select from threads where open <> 0)
                   and not exists (select from holds where state = 'held')"""
            )
        )
        return bool(found.scalar_one())


async def test_an_organism_works_fails_and_is_killed_while_the_books_are_closed(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    async with _running(tmp_path, database_url) as api:
        assert await _audit_until(db, asyncio.ensure_future(_work(api, db, clients=6, each=10))) > 3
    async with db.begin() as connection:
        found = await connection.execute(text("select status, count(*) from threads group by 1"))
        statuses = {row[0] for row in found}
        assert (await connection.execute(text("select count(*) from usage_events"))).scalar_one() > 30
    assert statuses == {"completed", "error", "killed"}
