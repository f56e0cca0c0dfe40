"""What `organism doctor` finds, and what there is to look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from sqlalchemy import text

from tests.support.broker import Broker
from xml_pipeline.doctor.examination import Patient, examine
from xml_pipeline.doctor.model import Finding, State
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.storage.database import Database

Findings = dict[str, Finding]


async def findings(**patient: object) -> Findings:
    return {finding.check: finding for finding in await examine(Patient(**patient))}  # type: ignore[arg-type]


def failures(found: Findings) -> set[str]:
    return {check for check, finding in found.items() if finding.state is State.FAILED}


async def until(look: Callable[[], Awaitable[Findings]], wanted: set[str]) -> None:
    """An alarm takes the broker a moment."""
    found = failures(await look())
    async with asyncio.timeout(60):
        while found != wanted:
            await asyncio.sleep(0.2)
            found = failures(await look())


async def change(url: str, *statements: str) -> None:
    db = Database.connect(url)
    async with db.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await db.close()


@asynccontextmanager
async def readers(url: str, name: str, *, but: str = "") -> AsyncIterator[None]:
    """An organism with one listener, each of whose queues is read."""
    names = Names(name)
    bus = await connect_bus(url, name="test")
    try:
        await bus.declare(organism_topology(name, ["a"]))
        for queue in (names.ingress, names.dead, names.usage, names.agent("a")):
            if queue != but:
                await bus.consume(queue, prefetch=1)
        yield
    finally:
        await bus.close()


def patient(broker: Broker, name: str) -> dict[str, object]:
    return {"amqp_url": broker.amqp_url, "organism": name, "listeners": ("a",)}
