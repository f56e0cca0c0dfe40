"""Turns a second through the routing transaction on PostgreSQL, no broker: alone, and with the XML of both ways.

`python -m tests.benchmarks.router URL`, the URL being that of a migrated database that may be written to.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID, uuid4

from tests.support import routing as given
from xml_pipeline.envelope.codec import decode_ingress, encode_assignment, encode_turn
from xml_pipeline.envelope.model import Outcome, Output, Turn
from xml_pipeline.organism.model import Limits
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.checks import configured
from xml_pipeline.routing.current import Configured, Current
from xml_pipeline.routing.delivery import assignment_of
from xml_pipeline.routing.items import Inject, Item, TurnReport
from xml_pipeline.storage import configuration, inbox
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_rows import Released

ORGANISM = given.organism(
    given.listener("ann", peers=("bob",), window=400),
    given.listener("bob", peers=(), window=400),
    limits=Limits(max_hops=10_000),
)
TEXT = "x" * 900


@dataclass(slots=True)
class Load:
    """Threads in which ann asks bob again and again, and then answers."""

    threads: int
    rounds: int
    xml: bool
    ready: deque[Item] = field(default_factory=deque)
    asked: dict[UUID, int] = field(default_factory=dict)
    turns: int = 0

    @property
    def total(self) -> int:
        """All turns that there will be."""
        return self.threads * (2 * self.rounds + 1)

    def items(self, most: int) -> list[Item]:
        """What has arrived; with XML, read from bytes."""
        taken = [self.ready.popleft() for _ in range(min(most, len(self.ready)))]
        return [_read(item) for item in taken] if self.xml else taken

    def handle(self, now: Configured, released: Sequence[Released]) -> None:
        """Play the workers; with XML, write the assignments and the turns."""
        for message in released:
            if self.xml:
                encode_assignment(assignment_of(now, message))
            turn = Turn(uuid4(), message.id, message.attempt, Outcome.OK, (self._output(message),), None, 1)
            self.ready.append(TurnReport(turn, encode_turn(turn) if self.xml else b""))

    def _output(self, message: Released) -> Output:
        if message.to_id == "bob":
            return given.respond(given.reply("bob", TEXT))
        asked = self.asked[message.thread_id] = self.asked.get(message.thread_id, 0) + 1
        return given.ask("bob", TEXT) if asked <= self.rounds else given.respond(given.reply("ann", TEXT))


def _read(item: Item) -> Item:
    if not isinstance(item, TurnReport):
        return item
    turn = decode_ingress(item.body)
    return TurnReport(turn, item.body) if isinstance(turn, Turn) else item


async def run(db: Database, *, routers: int, batch: int, threads: int, rounds: int, xml: bool) -> float:
    """Turns a second, from the first inject's batch to the last thread's end."""
    load = Load(threads, rounds, xml)
    now = configured(ORGANISM, 1)
    current = Current(now if xml else replace(now, check=given.TagCheck()))
    injects = [given.inject("ann") for _ in range(threads)]
    async with db.begin() as connection:
        await configuration.publish(connection, ORGANISM)
        await inbox.accept(connection, injects)
    load.ready.extend(Inject(one.id) for one in injects)
    started = time.perf_counter()
    await asyncio.gather(*(_router(db, current, load, batch) for _ in range(routers)))
    return load.total / (time.perf_counter() - started)


async def _router(db: Database, current: Current, load: Load, batch: int) -> None:
    batches = Batches(db, current)
    while load.turns < load.total:
        items = load.items(batch)
        if not items:
            await asyncio.sleep(0.001)
            continue
        for routed in await batches.run(items):
            load.turns += sum(turn.counted for turn in routed.decision.changes.turns)
            load.handle(current.configured, routed.fill.released)


CASES = (
    *((routers, batch, 1000 if batch > 1 else 50, 5) for routers, batch in ((1, 1), (1, 10), (1, 50), (1, 200))),
    (2, 200, 1000, 5),
)


async def main(url: str, say: Callable[[str], object] = print) -> None:
    """Run all cases, and say their figures."""
    db = Database.connect(url, application_name="benchmark")
    for xml in (False, True):
        for routers, batch, threads, rounds in CASES:
            rate = await run(db, routers=routers, batch=batch, threads=threads, rounds=rounds, xml=xml)
            name = "with XML" if xml else "transaction alone"
            say(f"{name}: {routers} router(s), batches of {batch} at most: {rate:,.0f} turns/s")
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
