"""A usage service that is killed at its worst moments: every call is booked once, by its successor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.ledger_support import ask, check_books, handled_message, numbers, used
from tests.support.fleet import Fleet
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.messages import HoldReply, HoldRequest, UsageEvent
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing, Published
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.storage.database import Database

CALLS = 30
ORGANISM = """
organism: {{name: {name}}}
listeners:
  - {{name: echo, payload_class: echo.Echo, handler: echo.echo, description: Says it again}}
"""
MODULE = """
from dataclasses import dataclass

@dataclass
class Echo:
    text: str

async def echo(payload: Echo, metadata: object) -> None:
    return None
"""


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
def fleet(tmp_path: Path, organism_name: str, amqp_url: str, database_url: str) -> Fleet:
    (tmp_path / "organism.yaml").write_text(ORGANISM.format(name=organism_name))
    (tmp_path / "echo.py").write_text(MODULE)
    return Fleet(tmp_path / "organism.yaml", amqp_url, database_url, tmp_path)


async def confirmed(bus: Bus, message: Outgoing) -> None:
    while True:
        if await bus.publish([message]) == [Published.CONFIRMED]:
            return
        await asyncio.sleep(0.05)


async def granted(bus: Bus, replies: Consumer, queue: str, request: HoldRequest) -> HoldReply:
    """Ask until there is an answer, as a worker does."""
    body = request.model_dump_json().encode()
    while True:
        await confirmed(bus, Outgoing("", queue, body, reply_to=replies.reply_address))
        try:
            async with asyncio.timeout(1):
                return await reply_to(request, replies)
        except TimeoutError:
            continue


async def reply_to(request: HoldRequest, replies: Consumer) -> HoldReply:
    while True:
        for got in await replies.batch(100):
            reply = HoldReply.model_validate_json(got.body)
            if reply.call_id == request.call_id:
                return reply


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["usage.before-commit", "usage.after-commit", "usage.before-ack"])
async def test_killed_again_and_again(
    fleet: Fleet, db: Database, amqp_url: str, organism_name: str, moment: str
) -> None:
    message = await handled_message(db)
    names = Names(organism_name)
    bus = await connect_bus(amqp_url, name="test")
    await bus.declare(organism_topology(organism_name, ["echo"]))
    replies = await bus.subscribe([])
    fleet.environment = {"ORGANISM_FAILPOINTS": f"{moment}=kill@7"}
    guard = asyncio.create_task(always_one(fleet))
    try:
        for tokens in range(CALLS):
            await use(bus, replies, names.usage, ask(message, prompt=50, completion=50), tokens)
        await settled(db)
    except BaseException:
        print(fleet.logs())
        raise
    finally:
        guard.cancel()
        await asyncio.gather(guard, return_exceptions=True)
        await asyncio.to_thread(fleet.stop)
        await bus.close()
    assert len(fleet.services) > 1
    total = sum(range(CALLS))
    assert await numbers(db, "select count(*), sum(prompt_tokens) from usage_events") == (CALLS, total)
    assert await numbers(db, "select held, prompt_tokens from budgets where level = 2") == (0, total)
    await check_books(db)


async def always_one(fleet: Fleet) -> None:
    """Start a service whenever there is none; the fourth one lives."""
    while True:
        if not fleet.of("usage"):
            fleet.environment = fleet.environment if len(fleet.services) < 3 else {}
            fleet.start("usage")
        await asyncio.sleep(0.1)


async def use(bus: Bus, replies: Consumer, queue: str, request: HoldRequest, tokens: int) -> None:
    reply = await granted(bus, replies, queue, request)
    assert reply.state == "granted"
    event: UsageEvent = used(request.message_id, request.call_id, prompt=tokens)
    await confirmed(bus, Outgoing("", queue, event.model_dump_json().encode()))


async def settled(db: Database) -> None:
    async with asyncio.timeout(30):
        while await numbers(db, "select count(*) from usage_events") != (CALLS,):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
