"""Redrives on a running router: a real PostgreSQL, a bus in memory, the test as gateway and worker."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid5

from tests.integration.routing_stage import Stage, stage, until
from tests.support import routing as given
from xml_pipeline.envelope.codec import encode_envelope
from xml_pipeline.envelope.model import Assignment, Envelope, Kind, Outcome
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.system_messages import read_error
from xml_pipeline.storage import dead_letters, messages, redrives, threads
from xml_pipeline.storage.dead_letters import Deletion
from xml_pipeline.storage.redrives import Answer, Redrive


def _organism() -> Organism:
    """Nobody takes errors but `ann`: what fails deep down climbs to `api`."""
    return given.organism(
        given.listener("top", peers=("middle",), accepts_errors=False, attempts=1),
        given.listener("middle", peers=("tool",), accepts_errors=False, attempts=1),
        given.listener("tool", agent=False, attempts=1),
        given.listener("ann", peers=("tool",), attempts=1),
    )


async def _letter(play: Stage) -> Any:
    """The letter that is not redriven yet, as soon as there is one."""
    found = await until(lambda: play.rows("select * from dead_letters where redriven_at is null"))
    return found[0]


def _redrive(letter: Any, payload: bytes) -> Redrive:
    body = encode_envelope(Envelope("api", letter.listener, letter.thread_id, payload))
    about = (letter.id, letter.message_id, letter.thread_id, letter.listener)
    return Redrive(*about, request_hash=payload, body=body, corrected=True)


async def _accept(play: Stage, letter: Any, payload: bytes, *, publish: bool = True) -> Answer:
    redrive = _redrive(letter, payload)
    async with play.db.begin() as connection:
        answer = await redrives.accept(connection, redrive, actor="test")
    if publish and answer is Answer.ACCEPTED:
        await play.send(redrive.body, {"message-id": str(redrive.id)})
    return answer


async def _fail_deep(play: Stage) -> UUID:
    id_ = await play.inject("top")
    await play.report(await play.assigned("top"), given.ask("middle"))
    await play.report(await play.assigned("middle"), given.ask("tool", "bad"))
    await play.report(await play.assigned("tool"), outcome=Outcome.ERROR, reason="no such thing")
    assert (await play.ended(id_)).status == "error"
    return id_


async def _answer(play: Stage, assignment: Assignment) -> None:
    await play.answer(assignment)


async def test_a_deep_failure_goes_on_where_it_broke_and_the_final_answer_comes(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await _fail_deep(play)
        letter = await _letter(play)
        assert letter.body == given.question("tool", "bad")
        assert await _accept(play, letter, given.question("tool", "good")) is Answer.ACCEPTED
        assert (await play.thread_of(id_)).status == "active"
        again = await play.assigned("tool")
        assert (again.message_id, again.attempt) == (uuid5(letter.id, "redrive"), 1)
        assert (again.envelope.from_id, again.envelope.payload) == ("middle", given.question("tool", "good"))
        await _answer(play, again)
        for name in ("middle", "top"):
            reply = await play.assigned(name)
            assert (reply.kind, reply.remaining, reply.replies) == (Kind.RESPONSE, 0, ())
            await _answer(play, reply)
        thread = await play.ended(id_)
        assert (thread.status, thread.error) == ("completed", None)
        answers = await play.rows("select kind from messages where answers = :id order by slot", id=id_)
        assert [row.kind for row in answers] == ["error", "response"]
        old, new = await play.rows("select outcome, redrive_of from messages where to_id = 'tool' order by slot")
        assert (old.outcome, new.outcome, new.redrive_of) == ("redriven", "handled", letter.message_id)
        assert await play.rows("select 1 from calls where not answered or pending <> 0 or open <> 0") == []


async def test_a_redrive_that_nobody_published_is_found_by_the_sweep(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await _fail_deep(play)
        await _accept(play, await _letter(play), given.question("tool"), publish=False)
        assert (await play.assigned("tool")).envelope.from_id == "middle"


async def test_asked_many_times_at_once_it_is_one_message(database_url: str) -> None:
    async with stage(database_url, _organism(), routers=2) as play:
        id_ = await _fail_deep(play)
        letter = await _letter(play)
        payloads = [given.question("tool", text) for text in "aabb"]
        answers = await asyncio.gather(*(_accept(play, letter, payload) for payload in payloads))
        assert sorted(answer.name for answer in answers) == ["ACCEPTED", "OTHERWISE", "OTHERWISE", "REPEATED"]
        await play.send(b"<message />", {"message-id": str(uuid5(letter.id, "redrive"))})
        await _answer(play, await play.assigned("tool"))
        for name in ("middle", "top"):
            await _answer(play, await play.assigned(name))
        assert (await play.ended(id_)).status == "completed"
        assert len(await play.rows("select 1 from messages where to_id = 'tool'")) == 2
        audits = await play.rows("select subject, detail from audit_log where action = 'redrive'")
        assert [(audit.subject, audit.detail["corrected"]) for audit in audits] == [(str(letter.id), True)]


async def test_one_that_fails_again_and_again_can_be_redriven_each_time(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await _fail_deep(play)
        for _ in range(2):
            await _accept(play, await _letter(play), given.question("tool"))
            await play.report(await play.assigned("tool"), outcome=Outcome.ERROR, reason="still not")
            assert (await play.ended(id_)).status == "error"
        await _accept(play, await _letter(play), given.question("tool"))
        await _answer(play, await play.assigned("tool"))
        for name in ("middle", "top"):
            await _answer(play, await play.assigned(name))
        assert (await play.ended(id_)).status == "completed"
        assert len(await play.rows("select 1 from dead_letters")) == 3
        assert len(await play.rows("select 1 from messages where answers = :id and kind = 'error'", id=id_)) == 3


async def test_a_reply_that_is_handled_again_is_not_among_its_own_earlier_replies(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        await play.report(await play.assigned("ann"), given.ask("tool", "1"), given.ask("tool", "2"))
        for _ in range(2):
            await _answer(play, await play.assigned("tool"))
        await play.report(await play.assigned("ann"), outcome=Outcome.ERROR, reason="not this one")
        await play.report(await play.assigned("ann"))
        assert (await play.ended(id_)).status == "error"
        await _accept(play, await _letter(play), given.reply("tool"))
        again = await play.assigned("ann")
        assert (again.kind, again.envelope.from_id, again.remaining) == (Kind.RESPONSE, "tool", 0)
        assert [reply.payload for reply in again.replies] == [given.reply("tool")]
        await _answer(play, again)
        assert (await play.ended(id_)).status == "completed"


async def test_a_killed_thread_is_left_alone(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await _fail_deep(play)
        letter = await _letter(play)
        async with play.db.begin() as connection:
            await threads.kill_thread(connection, letter.thread_id, actor="test")
        assert await _accept(play, letter, given.question("tool")) is Answer.KILLED
        assert await play.rows("select 1 from dead_letters where redriven_at is not null") == []


async def test_one_that_the_configuration_refuses_by_now_leaves_a_letter_and_no_second_error(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await _fail_deep(play)
        await _accept(play, await _letter(play), given.question("middle"))
        assert (await play.ended(id_)).status == "error"
        letter = await _letter(play)
        assert (letter.code, letter.message_id) == ("invalid-payload", (await _redriven(play)).redrive_id)
        errors = await play.rows("select body from messages where answers = :id", id=id_)
        assert [read_error(row.body).code for row in errors] == ["handler-failed"]
        await _accept(play, letter, given.question("tool"))
        await _answer(play, await play.assigned("tool"))
        await _answer(play, await play.assigned("middle"))


async def _redriven(play: Stage) -> Any:
    (letter,) = await play.rows("select redrive_id from dead_letters where redriven_at is not null")
    return letter


async def test_a_letter_is_not_deleted_while_a_router_has_still_to_read_it(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await _fail_deep(play)
        letter = await _letter(play)
        # As if every router were busy: none can take what is accepted.
        async with play.db.begin() as connection:
            await redrives.accept(connection, _redrive(letter, given.question("tool")), actor="test")
            assert await dead_letters.delete_dead_letter(connection, letter.id, actor="test") is Deletion.PENDING
        await _answer(play, await play.assigned("tool"))
        async with play.db.begin() as connection:
            assert await dead_letters.delete_dead_letter(connection, letter.id, actor="test") is Deletion.DONE
            assert await dead_letters.delete_dead_letter(connection, letter.id, actor="test") is Deletion.UNKNOWN
        for name in ("middle", "top"):
            await _answer(play, await play.assigned(name))
        assert (await play.ended(id_)).status == "completed"
        async with play.db.begin() as connection:
            reply = await messages.reply_to(connection, id_)
        assert reply is not None
        assert reply.kind == "response"
