"""A batch that cannot pass as it is: it is split until the culprit is alone, and the rest goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.support import routing as given
from xml_pipeline.envelope.model import Outcome, Turn
from xml_pipeline.routing.batch import Batches
from xml_pipeline.routing.current import Configured, Current
from xml_pipeline.routing.items import Inject, Item, TurnReport
from xml_pipeline.routing.transaction import Routed
from xml_pipeline.storage import configuration, inbox
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_rows import Sent

ORGANISM = given.organism(given.listener("ann", peers=("tool",)), given.listener("tool", agent=False))
CURRENT = Current(Configured(ORGANISM, 1, given.TagCheck()))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database.connect(database_url)
    async with db.begin() as connection:
        await configuration.publish(connection, ORGANISM)
    yield db
    await db.close()


@pytest.fixture
def batches(db: Database) -> Batches:
    return Batches(db, CURRENT)


async def _accept(db: Database, count: int) -> list[UUID]:
    made = [given.inject("ann") for _ in range(count)]
    async with db.begin() as connection:
        await inbox.accept(connection, made)
    return [one.id for one in made]


async def _rows(db: Database, query: str) -> list[tuple[object, ...]]:
    async with db.begin() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


def _inserted(routed: list[Routed]) -> set[UUID]:
    return {message.id for one in routed for message in one.decision.changes.inserts}


def _broken(report: TurnReport) -> TurnReport:
    """A number that no column can hold: PostgreSQL refuses the whole statement."""
    return replace(report, turn=replace(report.turn, duration_ms=2**40))


async def test_the_culprit_is_kept_and_the_others_pass(db: Database, batches: Batches) -> None:
    ids = await _accept(db, 5)
    items: list[Item] = [Inject(id_) for id_ in ids]
    broken = _broken(given.ok(uuid4()))
    routed = await batches.run([*items[:3], broken, *items[3:]])
    assert _inserted(routed) == set(ids)
    assert await _rows(db, "select code, body from dead_letters") == [("unroutable", broken.body)]
    assert await _rows(db, "select count(*) from messages where state = 'out'") == [(5,)]


async def test_a_row_that_is_in_the_way_for_ever_does_not_hold_the_router(db: Database, batches: Batches) -> None:
    (id_,) = await _accept(db, 1)
    await batches.run([Inject(id_)])
    (other,) = await _accept(db, 1)
    async with db.begin() as connection:
        statement = text("update threads set slots = slots - 1 where id = (select thread_id from inbox where id = :id)")
        await connection.execute(statement, {"id": id_})
    report = given.ok(id_, given.ask("tool"))
    routed = await batches.run([report, Inject(other)])
    assert _inserted(routed) == {other}
    assert await _rows(db, "select code from dead_letters") == [("unroutable",)]


async def test_an_inject_that_cannot_be_routed_ends_its_thread(db: Database, batches: Batches) -> None:
    (id_,) = await _accept(db, 1)
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 2147483647"))
    await batches.run([Inject(id_)])
    assert await _rows(db, "select status, open, failed from threads") == [("error", 0, 1)]
    assert await _rows(db, "select message_id from dead_letters") == [(id_,)]
    assert await _rows(db, "select count(*) from inbox where taken_at is null") == [(0,)]


async def test_confirms_are_noted_by_a_later_batch(db: Database) -> None:
    batches = Batches(db, CURRENT, confirm_wait=0.0)
    first, second = await _accept(db, 2)
    await batches.run([Inject(first)])
    batches.note_later([Sent(first, 1), Sent(uuid4(), 1)])
    await batches.run([Inject(second)])
    assert not batches.has_unnoted
    assert await _rows(db, "select id from messages where confirmed") == [(first,)]


async def test_a_confirm_is_forgotten_when_the_turn_has_come(db: Database) -> None:
    batches = Batches(db, CURRENT, confirm_wait=float("inf"))
    first, second = await _accept(db, 2)
    await batches.run([Inject(first), Inject(second)])
    batches.note_later([Sent(first, 1), Sent(second, 1)])
    await batches.run([TurnReport(Turn(uuid4(), first, 1, Outcome.OK, (), None, 1))])
    await batches.note_sent()
    assert await _rows(db, "select id from messages where confirmed") == [(second,)]


async def test_a_confirm_of_an_earlier_attempt_says_nothing(db: Database, batches: Batches) -> None:
    (id_,) = await _accept(db, 1)
    await batches.run([Inject(id_)])
    batches.note_later([Sent(id_, 7)])
    await batches.note_sent()
    assert await _rows(db, "select count(*) from messages where confirmed") == [(0,)]
