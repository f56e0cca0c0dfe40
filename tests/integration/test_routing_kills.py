"""Killed threads at the running router: nothing more of them is delivered, and what was accepted is in the log."""

from __future__ import annotations

from tests.integration.routing_stage import stage, until
from tests.support import routing as given
from xml_pipeline.storage import threads

ORGANISM = given.organism(given.listener("ann", peers=("bob",)), given.listener("bob"))


async def test_nothing_more_of_a_killed_thread_is_delivered(database_url: str) -> None:
    async with stage(database_url, ORGANISM) as play:
        id_ = await play.inject("ann")
        assignment = await play.assigned("ann")
        async with play.db.begin() as connection:
            await threads.kill_thread(connection, assignment.envelope.thread_id, actor="test")
        turn = await play.report(assignment, given.ask("bob"))
        await until(lambda: play.rows("select 1 from turns where id = :id and not counted", id=turn.id))
        thread = await play.thread_of(id_)
        assert (thread.status, thread.message_count) == ("killed", 1)


async def test_what_was_accepted_before_a_kill_is_in_the_log(database_url: str) -> None:
    async with stage(database_url, ORGANISM) as play:
        id_ = await play.inject("ann", publish=False)
        thread = await play.thread_of(id_)
        async with play.db.begin() as connection:
            await threads.kill_thread(connection, thread.id, actor="test")
        logged = "select 1 from messages where id = :id and state = 'closed' and outcome = 'killed'"
        await until(lambda: play.rows(logged, id=id_))
        (counts,) = await play.rows("select status, open, slots from threads where id = :id", id=thread.id)
        assert tuple(counts) == ("killed", 0, 1)
