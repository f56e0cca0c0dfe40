"""Several routers on one PostgreSQL: random batches, duplicated, late and differing turns, injects that race turns,
kills, pauses, lost messages. Whatever the order, every thread ends, and what is stored is what the counted turns said.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4, uuid5

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support import routing as given
from xml_pipeline.envelope.model import Kind, Outcome, Output, Turn
from xml_pipeline.organism.model import Limits, Organism
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.current import Configured, Current
from xml_pipeline.routing.items import Inject, Item, Overdue, TurnReport
from xml_pipeline.routing.windows import DEADLINE_MARGIN
from xml_pipeline.storage import configuration, inbox, listeners, threads
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_rows import Released, Sent
from xml_pipeline.storage.routing_sweep import claim_unconfirmed, overdue_messages, untaken_inbox

T = TypeVar("T")
WINDOWS = {"ann": 4, "bob": 2, "tool": 3, "mute": 2}
PEERS = ("ann", "bob", "tool", "mute")
LAST_HOP = 6
# So long a message may be out before the test takes it for lost, in seconds.
PATIENCE = 0.3


def _organism() -> Organism:
    listener = partial(given.listener, attempts=1000, backoff=0.005, timeout=PATIENCE - DEADLINE_MARGIN)
    return given.organism(
        listener("ann", peers=PEERS, window=4),
        listener("bob", peers=PEERS, window=2, accepts_errors=False),
        listener("tool", peers=("ann", "mute"), agent=False, window=3),
        listener("mute", peers=(), agent=False, responds=False, window=2),
        limits=Limits(max_hops=LAST_HOP + 3),
    )


@dataclass
class World:
    """What goes round outside the database: ingress, the queues, the handlers."""

    chance: random.Random
    ingress: list[Item] = field(default_factory=list)
    queue: list[Released] = field(default_factory=list)
    said: dict[UUID, Turn] = field(default_factory=dict)
    hops: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))
    trouble: list[str] = field(default_factory=list)
    over: bool = False

    def take(self, most: int) -> list[Item]:
        """What has arrived, in no order."""
        self.chance.shuffle(self.ingress)
        taken, self.ingress = self.ingress[:most], self.ingress[most:]
        return taken

    def handle(self, message: Released) -> None:
        """Run a handler, once or twice with differing ends, or lose the message."""
        if self.chance.random() < 0.03:
            return
        for _ in range(2 if self.chance.random() < 0.15 else 1):
            turn = self._turn(message)
            self.said[turn.id] = turn
            self.ingress += [TurnReport(turn, b"<turn/>")] * (2 if self.chance.random() < 0.1 else 1)

    def _turn(self, message: Released) -> Turn:
        outcome = self.chance.choices((Outcome.OK, Outcome.ERROR, Outcome.TIMEOUT), (90, 7, 3))[0]
        outputs = self._outputs(message) if outcome is Outcome.OK else ()
        for ordinal in range(len(outputs)):
            self.hops[uuid5(message.id, str(ordinal))] = self.hops[message.id] + 1
        return Turn(uuid4(), message.id, message.attempt, outcome, outputs, duration_ms=1)

    def _outputs(self, message: Released) -> tuple[Output, ...]:
        answer = given.respond(given.reply(message.to_id))
        if self.hops[message.id] >= LAST_HOP or message.kind != "request":
            return self.chance.choice(((answer,), (answer,), (answer, answer), ()))
        asks = tuple(given.ask(self.chance.choice(PEERS)) for _ in range(self.chance.randint(1, 3)))
        wrong = Output(Kind.REQUEST, self.chance.choice(("ann", "nobody")), b"<wrong/>")
        return self.chance.choice((asks, asks, asks, (answer,), (*asks, answer), (*asks, wrong), ()))


async def _router(world: World, db: Database, current: Current) -> None:
    batches = Batches(db, current)
    while not world.over:
        items = world.take(world.chance.randint(1, 20))
        done = await batches.run(items)
        fill = await batches.fill() if world.chance.random() < 0.05 or not items else None
        released = [message for routed in done for message in routed.fill.released]
        released += fill.released if fill else ()
        batches.note_later([Sent(message.id, message.attempt) for message in released])
        world.queue += released
        await asyncio.sleep(0 if items else 0.005)


async def _handlers(world: World) -> None:
    while not world.over:
        world.chance.shuffle(world.queue)
        handled, world.queue = world.queue, []
        for message in handled:
            world.handle(message)
        await asyncio.sleep(0.003)


async def _sweeper(world: World, db: Database) -> None:
    """Finds what was lost, as the router's sweep does."""
    while not world.over:
        async with db.begin() as connection:
            late = await overdue_messages(connection, limit=100)
            forgotten = await untaken_inbox(connection, older_than=PATIENCE, limit=100)
            world.queue += await claim_unconfirmed(
                connection, {}, older_than=PATIENCE, limit=100, default_timeout=PATIENCE
            )
        world.ingress += [Overdue(row.id, row.attempt) for row in late]
        world.ingress += [Inject(message_id) for message_id in forgotten]
        await asyncio.sleep(PATIENCE / 3)


async def _windows_hold(world: World, db: Database) -> None:
    while not world.over:
        async with db.begin() as connection:
            rows = await connection.execute(text("select to_id, count(*) n from messages where state='out' group by 1"))
            world.trouble += [f"{row.n} out of {row.to_id}" for row in rows if row.n > WINDOWS[row.to_id]]
        await asyncio.sleep(0.01)


async def _clients(world: World, db: Database, ids: Sequence[UUID]) -> None:
    """Two injects for each thread, some of them late: they race the turns for the thread's mailboxes."""
    wanted = [given.inject(world.chance.choice(("ann", "bob")), thread) for thread in ids for _ in range(2)]
    world.chance.shuffle(wanted)
    while wanted:
        some = [wanted.pop() for _ in range(min(len(wanted), world.chance.randint(1, 9)))]
        accepted = await _at_once(db, partial(inbox.accept, injects=some))
        ids_ = [answer.message_id for answer in accepted if isinstance(answer, inbox.Accepted)]
        world.ingress += [Inject(id_) for id_ in ids_ for _ in range(world.chance.choice((0, 1, 1, 1, 2)))]
        await asyncio.sleep(0.002)


async def _kills(world: World, db: Database, ids: Sequence[UUID]) -> None:
    for thread in world.chance.sample(list(ids), len(ids) // 10):
        await asyncio.sleep(0.02)
        await _at_once(db, partial(threads.kill_thread, thread_id=thread, actor="test"))


async def _pauses(world: World, db: Database) -> None:
    for _ in range(5):
        for paused in (True, False):
            await _at_once(db, partial(listeners.set_paused, name="bob", paused=paused, actor="test"))
            await asyncio.sleep(0.03)


async def _at_once(db: Database, action: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """Nobody may run into a deadlock, gateways included: not repeated on purpose."""
    async with db.begin() as connection:
        return await action(connection)


async def _settle(db: Database) -> None:
    busy = 1
    while busy:
        await asyncio.sleep(0.05)
        async with db.begin() as connection:
            busy = await connection.scalar(text("select count(*) from threads where open <> 0")) or 0


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_thread_ends_and_nothing_is_lost_or_doubled(database_url: str, seed: int) -> None:
    db, organism = Database.connect(database_url, pool_size=12, max_overflow=4), _organism()
    world, ids = World(random.Random(seed)), [uuid4() for _ in range(60)]
    async with db.begin() as connection:
        await configuration.publish(connection, organism)
    current = Current(Configured(organism, 1, given.TagCheck()))
    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(_router(world, db, current))
        group.create_task(_handlers(world))
        group.create_task(_sweeper(world, db))
        group.create_task(_windows_hold(world, db))
        await asyncio.gather(_clients(world, db, ids), _kills(world, db, ids), _pauses(world, db))
        await _settle(db)
        world.over = True
    assert world.trouble == []
    await _check_database(db)
    await _check_turns(db, world)
    await db.close()


_NOTHING = {
    "messages open": "select count(*) from messages where state <> 'closed'",
    "inbox untaken": "select count(*) from inbox where taken_at is null",
    "threads not ended": "select count(*) from threads where status = 'active' or open <> 0",
    "slots with holes": """select count(*) from threads t where slots <>
        (select count(*) from messages m where m.thread_id = t.id)""",
    "calls still open": """select count(*) from calls c join threads t on t.id = c.thread_id
        where t.status <> 'killed' and (c.open <> 0 or c.pending <> 0)""",
    "callers left waiting": """select count(*) from calls c join threads t on t.id = c.thread_id
        where t.status <> 'killed' and c.awaited and not c.answered""",
    "answers without or beyond a call": """select count(*) from (select c.id, c.answered, count(m.id) n from calls c
        left join messages m on m.answers = c.id group by 1, 2) a where n > 1 or (n = 1 and not answered)""",
    "threads whose status is not their errors'": """select count(*) from threads t where status <> 'killed' and
        (status = 'error') <> exists (select 1 from messages m
        where m.thread_id = t.id and m.to_id = 'api' and m.kind = 'error')""",
    "handled messages without their one turn": """select count(*) from messages m where outcome = 'handled' and 1 <>
        (select count(*) from turns t where t.message_id = m.id and t.counted and t.outcome = 'ok')""",
}


async def _check_database(db: Database) -> None:
    found = {}
    async with db.begin() as connection:
        for name, query in _NOTHING.items():
            found[name] = await connection.scalar(text(query))
    assert found == dict.fromkeys(_NOTHING, 0)


async def _check_turns(db: Database, world: World) -> None:
    """What was produced is what the turns that counted said, no more and no less."""
    async with db.begin() as connection:
        rows = await connection.execute(text("select id, turn_id, outcome, to_id from messages"))
        messages = {row.id: row for row in rows}
    assert len(messages) > 100
    for message in messages.values():
        if message.outcome == "handled":
            for ordinal, output in enumerate(world.said[message.turn_id].outputs):
                _check_output(messages.keys(), message.id, message.to_id, ordinal, output)
    outcomes = Counter(message.outcome for message in messages.values())
    assert outcomes["handled"] > 50


def _check_output(known: Collection[UUID], message_id: UUID, sender: str, ordinal: int, output: Output) -> None:
    """A request that may pass is there; one that may not is not."""
    if output.kind is not Kind.REQUEST or output.payload is None:
        return
    may_pass = output.payload != b"<wrong/>" and output.to in _organism().listeners[sender].peers
    assert (uuid5(message_id, str(ordinal)) in known) == may_pass
