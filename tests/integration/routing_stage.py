"""A router that runs on a real PostgreSQL and a bus in memory, with the test in the place of gateway and workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from tests.support import routing as given
from xml_pipeline.audit.closing import close_books
from xml_pipeline.audit.thread_checks import THREAD_CHECKS
from xml_pipeline.envelope.codec import decode_assignment, encode_turn
from xml_pipeline.envelope.model import Assignment, Outcome, Output, Turn
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.messages import EventFrame
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Binding, Names, organism_topology
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.service import run_router
from xml_pipeline.storage import inbox, threads
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.threads import ThreadRecord

LIMIT = 15.0


@dataclass
class Stage:
    """What a test can do beside a running router."""

    db: Database
    bus: Bus
    organism: Organism
    feed: Consumer
    queues: dict[str, Consumer]
    running: list[asyncio.Task[None]]
    frames: list[EventFrame] = field(default_factory=list)

    @property
    def names(self) -> Names:
        """The names on the broker."""
        return Names(self.organism.name)

    async def inject(self, to: str, thread: UUID | None = None, *, publish: bool = True) -> UUID:
        """Accept an inject as a gateway does; its id, which is its thread's too unless one is given."""
        made = given.inject(to, thread)
        async with self.db.begin() as connection:
            await inbox.accept(connection, [made])
        if publish:
            await self.send(made.body, {"message-id": str(made.id)})
        return made.id

    async def send(self, body: bytes, headers: dict[str, str | int] | None = None) -> None:
        """Put something on ingress."""
        await self.bus.publish([Outgoing("", self.names.ingress, body, headers or {})])

    async def assigned(self, listener: str) -> Assignment:
        """Wait for the next assignment to a listener."""
        async with asyncio.timeout(LIMIT):
            (delivery,) = await self.queues[listener].batch(1)
        await self.queues[listener].ack([delivery])
        assert delivery.headers["message-id"] == str(decode_assignment(delivery.body).message_id)
        return decode_assignment(delivery.body)

    async def report(
        self, assignment: Assignment, *outputs: Output, outcome: Outcome = Outcome.OK, reason: str | None = None
    ) -> Turn:
        """Report a turn as a worker does."""
        turn = Turn(uuid4(), assignment.message_id, assignment.attempt, outcome, outputs, reason, 1)
        await self.send(encode_turn(turn))
        return turn

    async def park(self, assignment: Assignment, tokens: int) -> None:
        """Report that its handler was about to make a call that no budget covers."""
        turn = Turn(uuid4(), assignment.message_id, assignment.attempt, Outcome.PARKED, asked=tokens)
        await self.send(encode_turn(turn))

    async def answer(self, assignment: Assignment) -> None:
        """Respond to the caller."""
        await self.report(assignment, given.respond(given.reply(assignment.envelope.to_id)))

    async def thread_of(self, message_id: UUID) -> ThreadRecord:
        """The thread of an inject."""
        async with self.db.begin() as connection:
            thread_id = await connection.scalar(text("select thread_id from inbox where id = :id"), {"id": message_id})
            thread = await threads.get_thread(connection, thread_id)
        assert thread is not None
        return thread

    async def ended(self, message_id: UUID) -> ThreadRecord:
        """Wait until the thread of an inject has ended."""

        async def done() -> ThreadRecord | None:
            thread = await self.thread_of(message_id)
            return None if thread.status == "active" else thread

        found: ThreadRecord = await until(done)
        return found

    async def rows(self, query: str, **parameters: object) -> list[Any]:
        """Look into the database."""
        async with self.db.begin() as connection:
            return list(await connection.execute(text(query), parameters))

    async def change(self, statement: str, **parameters: object) -> None:
        """Do something to the database."""
        async with self.db.begin() as connection:
            await connection.execute(text(statement), parameters)

    async def events(self, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """All events of the router's feed so far, as soon as they are enough."""
        async with asyncio.timeout(LIMIT):
            while not enough(self._events()):
                deliveries = await self.feed.batch(100)
                self.frames += [EventFrame.model_validate_json(delivery.body) for delivery in deliveries]
        return self._events()

    def _events(self) -> list[dict[str, Any]]:
        return [event for frame in self.frames for event in frame.events]


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until there is an answer."""
    found = None
    async with asyncio.timeout(LIMIT):
        while not found:
            await asyncio.sleep(0.02)
            found = await condition()
    return found


@asynccontextmanager
async def stage(database_url: str, organism: Organism, *, routers: int = 1) -> AsyncIterator[Stage]:
    """Routers that run until the test is over, and end in order; what they have counted adds up then."""
    broker, db, stop = MemoryBroker(), Database.connect(database_url), asyncio.Event()
    bus = broker.connect()
    await bus.declare(organism_topology(organism.name, organism.listeners))
    feed = await bus.subscribe([Binding(Names(organism.name).events, "", "feed.router")])
    queues: dict[str, Consumer] = {
        name: await bus.consume(Names(organism.name).agent(name), prefetch=1000) for name in organism.listeners
    }
    running = [
        asyncio.create_task(run_router(broker.connect(), db, organism, stop=stop, instance=f"router-{n}"))
        for n in range(routers)
    ]
    try:
        try:
            yield Stage(db, bus, organism, feed, queues, running)
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*running), LIMIT)
        await _require_counts(db)
    finally:
        await db.close()


async def _require_counts(db: Database) -> None:
    checks = {check.name for check in THREAD_CHECKS}
    differences = [one for one in (await close_books(db)).differences if one.check in checks]
    assert not differences, differences
