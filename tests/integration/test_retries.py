"""Retries wait in PostgreSQL: whatever is restarted meanwhile, and without blocking anybody else."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.integration.routing_stage import Stage, stage, until
from tests.support import routing as given
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.organism.model import Organism

WAITING = "select attempt from messages where state = 'ready' and due_at > now()"


def _organism(backoff: float, on: tuple[str, ...] = ("error",)) -> Organism:
    return given.organism(given.listener("ann", attempts=2, backoff=backoff, on=on))


async def _fail(play: Stage) -> None:
    await play.report(await play.assigned("ann"), outcome=Outcome.ERROR)


async def test_a_retry_survives_the_restart_of_everything(database_url: str) -> None:
    async with stage(database_url, _organism(3600)) as play:
        id_ = await play.inject("ann")
        await _fail(play)
        await until(lambda: play.rows(WAITING))
    # Another broker, another router, the same database; and time has passed.
    async with stage(database_url, _organism(3600)) as play:
        assert [row.attempt for row in await play.rows(WAITING)] == [1]
        await play.change("update messages set due_at = now()")
        again = await play.assigned("ann")
        assert (again.message_id, again.attempt) == (id_, 2)
        await play.answer(again)
        assert (await play.ended(id_)).status == "completed"


async def test_another_thread_of_the_same_agent_goes_on_meanwhile(database_url: str) -> None:
    async with stage(database_url, _organism(3600)) as play:
        thread = uuid4()
        first = await play.inject("ann", thread)
        await _fail(play)
        await until(lambda: play.rows(WAITING))
        behind = await play.inject("ann", thread)
        other = await play.inject("ann")
        assignment = await play.assigned("ann")
        assert assignment.message_id == other
        await play.answer(assignment)
        assert (await play.ended(other)).status == "completed"
        # The order of its own thread is kept.
        states = {
            row.id: row.state for row in await play.rows("select id, state from messages where state <> 'closed'")
        }
        assert states == {first: "ready", behind: "waiting"}


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.TIMEOUT])
async def test_an_outcome_that_is_not_listed_is_final(database_url: str, outcome: Outcome) -> None:
    async with stage(database_url, _organism(0.05, on=("lost",))) as play:
        id_ = await play.inject("ann")
        await play.report(await play.assigned("ann"), outcome=outcome)
        assert (await play.ended(id_)).status == "error"
        assert [row.attempts for row in await play.rows("select attempts from dead_letters")] == [1]


async def test_the_wait_is_shorter_or_longer_by_the_jitter_and_no_more(database_url: str) -> None:
    async with stage(database_url, _organism(60)) as play:
        for _ in range(20):
            await play.inject("ann")
            await _fail(play)
        await until(lambda: play.rows("select 1 from messages where due_at is not null having count(*) = 20"))
        (row,) = await play.rows(
            "select min(extract(epoch from due_at - t.created_at)) as least,"
            " max(extract(epoch from due_at - t.created_at)) as most"
            " from messages m join turns t on t.message_id = m.id"
        )
        assert 47 < row.least < row.most < 73
