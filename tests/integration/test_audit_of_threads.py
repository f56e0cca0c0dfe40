"""What a router has counted, recomputed: requests that were answered, failed, are open, were redriven, or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from tests.integration.routing_stage import Stage, stage, until
from tests.support import routing as given
from xml_pipeline.audit.closing import recompute
from xml_pipeline.audit.thread_checks import THREAD_CHECKS
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.organism.model import Organism

_ACTIVE = "(select id from threads where status = 'active')"
# What is planted, and the checks that have to find it; no other may.
PLANTED = {
    "a thread counts what is not open": ("update threads set open = open + 1 where open > 0", {"open-messages"}),
    "a thread has forgotten what is open": (
        "update threads set open = 0 where open > 0",
        {"open-messages", "thread-status"},
    ),
    "a message is gone": ("delete from messages where to_id = 'api'", {"open-messages", "failed-requests"}),
    "a thread has forgotten a failure": (
        "update threads set failed = 0 where failed = 1",
        {"failed-requests", "thread-status"},
    ),
    "a thread failed, and nothing in it": (
        f"update threads set failed = 1 where id in {_ACTIVE}",  # noqa: S608 - written here
        {"failed-requests"},
    ),
    "a thread is over that is not": (
        "update threads set status = 'completed' where status = 'active'",
        {"thread-status"},
    ),
    "a call waits for what nobody owes": ("update calls set pending = pending + 1 where pending = 0", {"open-calls"}),
    "a call has nothing open, but a message is": ("update calls set open = 0 where open = 1", {"open-calls"}),
    "a message is parked and on its way": (
        "update messages set parked_for = 5 where state = 'out'",
        {"parked-messages"},
    ),
}


def _organism() -> Organism:
    return given.organism(
        given.listener("top", peers=("tool",), accepts_errors=False, attempts=1),
        given.listener("tool", agent=False, attempts=1),
    )


@pytest.fixture
async def play(database_url: str) -> AsyncIterator[Stage]:
    """One thread was answered, one failed, one is under way; one was refused, since its target is gone."""
    async with stage(database_url, _organism()) as play:
        good = await play.inject("top")
        await play.report(await play.assigned("top"), given.ask("tool"))
        await play.answer(await play.assigned("tool"))
        await play.answer(await play.assigned("top"))
        bad = await play.inject("top")
        await play.report(await play.assigned("top"), given.ask("tool"))
        await play.report(await play.assigned("tool"), outcome=Outcome.ERROR, reason="no such thing")
        gone = await play.inject("nobody")
        assert [(await play.ended(id_)).status for id_ in (good, bad, gone)] == ["completed", "error", "error"]
        await play.inject("top")
        await play.report(await play.assigned("top"), given.ask("tool"))
        await until(lambda: play.rows("select 1 from messages where to_id = 'tool' and state = 'out'"))
        yield play


def test_every_check_has_an_error_that_it_finds() -> None:
    assert {check.name for check in THREAD_CHECKS} == set().union(*(checks for _, checks in PLANTED.values()))


async def test_planted_errors_are_found_by_their_checks(play: Stage) -> None:
    for error, (statement, checks) in PLANTED.items():
        async with play.db.begin() as connection:
            audit = await recompute(connection)
            assert audit.clean, audit.differences
            assert (await connection.execute(text(statement))).rowcount, error
            found = {finding.check.name for finding in (await recompute(connection)).findings if finding.count}
            assert found == checks, error
            await connection.rollback()
