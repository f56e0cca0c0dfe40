"""The running router, rule by rule: a real PostgreSQL, a bus in memory, the test as gateway and worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from tests.integration.routing_stage import LIMIT, Stage, stage, until
from tests.support import routing as given
from xml_pipeline.envelope.codec import encode_assignment, encode_turn
from xml_pipeline.envelope.model import Assignment, Kind, Outcome, Output, Turn
from xml_pipeline.message_bus.messages import ControlHint, Heartbeat
from xml_pipeline.message_bus.port import Consumer, Outgoing
from xml_pipeline.organism.load import parse_organism
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.system_messages import not_reachable, read_error
from xml_pipeline.storage import configuration, listeners, organism_state
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.routing_sweep import save_capacities


def _organism(**ann: Any) -> Organism:
    return given.organism(
        given.listener("ann", peers=("bob", "tool"), **{"attempts": 2, "backoff": 0.05} | ann),
        given.listener("bob", peers=("tool",), attempts=1),
        given.listener("tool", agent=False, attempts=1),
    )


def _error(assignment: Assignment) -> str:
    assert assignment.kind is Kind.ERROR
    return read_error(assignment.envelope.payload).code


async def test_a_fan_out_joins(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        question = await play.assigned("ann")
        assert (question.kind, question.call, question.remaining, question.attempt) == (Kind.REQUEST, id_, 0, 1)
        await play.report(question, *(given.ask("tool", text) for text in "123"))
        asked = {(one := await play.assigned("tool")).envelope.payload: one for _ in range(3)}
        for text in "231":
            await play.report(asked[given.question("tool", text)], given.respond(given.reply("tool", text)))
        for texts in ("2", "23", "231"):
            reply = await play.assigned("ann")
            assert (reply.kind, reply.call, reply.remaining) == (Kind.RESPONSE, id_, 3 - len(texts))
            so_far = [*(earlier.payload for earlier in reply.replies), reply.envelope.payload]
            assert so_far == [given.reply("tool", text) for text in texts]
            await play.report(reply, *([] if reply.remaining else [given.respond(given.reply("ann"))]))
        thread = await play.ended(id_)
        assert (thread.status, thread.message_count, thread.participants) == ("completed", 8, ("api", "ann", "tool"))


async def test_a_mailbox_takes_one_message_at_a_time_in_order(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        thread = uuid4()
        ids = [await play.inject("ann", thread) for _ in range(3)]
        await until(lambda: play.rows("select 1 from threads where slots = 3"))
        for id_ in await _in_slot_order(play):
            assignment = await play.assigned("ann")
            out = await play.rows("select id from messages where state in ('ready', 'out')")
            assert (assignment.message_id, [row.id for row in out]) == (id_, [id_])
            await play.answer(assignment)
        assert (await play.ended(ids[0])).status == "completed"


async def _in_slot_order(play: Stage) -> list[UUID]:
    return [row.id for row in await play.rows("select id from messages where from_id = 'api' order by slot")]


async def test_a_callee_that_ends_gives_its_caller_no_answer(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        await play.report(await play.assigned("ann"), given.ask("bob"))
        await play.report(await play.assigned("bob"))
        told = await play.assigned("ann")
        assert (_error(told), told.envelope.from_id, told.remaining) == ("no-answer", "bob", 0)
        await play.report(told)
        thread = await play.ended(id_)
        assert (thread.status, thread.error) == ("error", "no-answer: ann ended without an answer.")


async def test_a_failure_is_tried_again_later_then_a_dead_letter(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        first = await play.assigned("ann")
        await play.report(first, outcome=Outcome.ERROR, reason="no luck")
        second = await play.assigned("ann")
        assert (second.message_id, second.attempt) == (id_, 2)
        await play.report(second, outcome=Outcome.TIMEOUT, reason="too slow")
        thread = await play.ended(id_)
        assert (thread.status, thread.error) == ("error", "timeout: too slow")
        (letter,) = await play.rows("select * from dead_letters")
        assert (letter.message_id, letter.code, letter.attempts) == (id_, "timeout", 2)
        assert letter.body == given.question("ann")


async def test_an_error_goes_up_to_who_takes_it(database_url: str) -> None:
    organism = given.organism(
        given.listener("ann", peers=("shy",)),
        given.listener("shy", peers=("tool",), accepts_errors=False),
        given.listener("tool", agent=False, attempts=1),
    )
    async with stage(database_url, organism) as play:
        await play.inject("ann")
        await play.report(await play.assigned("ann"), given.ask("shy"))
        await play.report(await play.assigned("shy"), given.ask("tool"))
        await play.report(await play.assigned("tool"), outcome=Outcome.ERROR, reason="broken")
        told = await play.assigned("ann")
        assert (_error(told), told.envelope.from_id) == ("handler-failed", "shy")


async def test_who_says_it_wrongly_gets_a_hint(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await play.inject("ann")
        wrong = b"<bob.question><colour>red</colour></bob.question>"
        await play.report(await play.assigned("ann"), Output(Kind.REQUEST, "bob", wrong))
        hint = await play.assigned("ann")
        assert (hint.envelope.from_id, _error(hint)) == ("system", "invalid-payload")
        assert "colour" in read_error(hint.envelope.payload).text
        await play.report(hint, Output(Kind.REQUEST, "bob", wrong))
        assert read_error((await play.assigned("ann")).envelope.payload).tag == "SystemError"


async def test_a_target_out_of_reach_is_refused_and_noted(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await play.inject("ann")
        await play.report(await play.assigned("ann"), given.ask("nobody"), given.ask("ann"))
        for remaining in (1, 0):
            told = await play.assigned("ann")
            assert (told.envelope.payload, told.remaining) == (not_reachable().payload, remaining)
            await play.report(told)
        entries = await play.rows("select * from audit_log where action = 'send-blocked' order by id")
        assert [(entry.actor, entry.subject) for entry in entries] == [("ann", "nobody"), ("ann", "ann")]


async def test_an_inject_that_nobody_was_told_of_is_found(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann", publish=False)
        assert (await play.assigned("ann")).message_id == id_


async def test_what_nobody_accepted_is_a_dead_letter_and_the_router_goes_on(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        forged = given.inject("ann")
        await play.send(forged.body, {"message-id": str(forged.id)})
        await play.send(forged.body)
        await play.send(b"\x00 rubbish \xff", {"message-id": "rubbish"})
        await play.send(b"<assignment/>")
        id_ = await play.inject("ann")
        assert (await play.assigned("ann")).message_id == id_
        letters = await play.rows("select code, body from dead_letters order by code")
        assert [letter.code for letter in letters] == ["not-accepted", "not-accepted", "unreadable", "unreadable"]
        assert b"\x00 rubbish \xff" in [letter.body for letter in letters]


async def test_a_turn_counts_once_and_what_comes_late_changes_nothing(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        assignment = await play.assigned("ann")
        turn = Turn(uuid4(), id_, 1, Outcome.OK, (given.respond(given.reply("ann", "first")),))
        late = Turn(uuid4(), id_, 1, Outcome.OK, (given.respond(given.reply("ann", "second")), given.ask("bob")))
        failed = Turn(uuid4(), id_, 1, Outcome.ERROR)
        for report in (turn, turn, late, failed, late):
            await play.send(encode_turn(report))
        await until(lambda: play.rows("select 1 from turns having count(*) = 3"))
        counted = await play.rows("select id from turns where counted")
        assert [row.id for row in counted] == [turn.id]
        thread = await play.ended(id_)
        assert (thread.status, thread.message_count) == ("completed", 2)
        assert assignment.envelope.thread_id == thread.id


async def test_an_ok_that_comes_while_the_next_attempt_waits_wins(database_url: str) -> None:
    async with stage(database_url, _organism(backoff=30.0)) as play:
        id_ = await play.inject("ann")
        assignment = await play.assigned("ann")
        await play.report(assignment, outcome=Outcome.ERROR)
        await until(lambda: play.rows("select 1 from messages where state = 'ready' and due_at > now()"))
        await play.answer(assignment)
        assert (await play.ended(id_)).status == "completed"


async def test_a_lost_message_is_sent_again_until_its_attempts_are_used_up(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        for attempt in (1, 2):
            assert (await play.assigned("ann")).attempt == attempt
            await play.change("update messages set deadline = now() where state = 'out'")
        assert (await play.ended(id_)).error == "lost: No turn came before the deadline."
        (letter,) = await play.rows("select code, attempts from dead_letters")
        assert (letter.code, letter.attempts) == ("lost", 2)


async def test_an_overdue_message_that_still_waits_in_the_queue_is_not_lost(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await play.queues["ann"].close()
        id_ = await play.inject("ann")
        await until(lambda: play.rows("select 1 from messages where confirmed"))
        await play.change("update messages set deadline = now()")
        await until(lambda: play.rows("select 1 from messages where deadline < now() - interval '2 seconds'"))
        (row,) = await play.rows("select attempt, state from messages")
        assert (row.attempt, row.state) == (1, "out")
        play.queues["ann"] = await play.bus.consume(play.names.agent("ann"), prefetch=1)
        await play.answer(await play.assigned("ann"))
        assert (await play.ended(id_)).status == "completed"


async def test_what_was_not_confirmed_is_published_again_in_the_same_attempt(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await play.inject("ann")
        first = await play.assigned("ann")
        await until(lambda: play.rows("select 1 from messages where confirmed"))
        await play.change("update messages set confirmed = false")
        assert await play.assigned("ann") == first


async def test_an_assignment_that_the_broker_gave_up_is_published_again(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await play.inject("ann")
        first = await play.assigned("ann")
        await until(lambda: play.rows("select 1 from messages where confirmed"))
        await play.bus.publish([Outgoing(play.names.dead, "", encode_assignment(first))])
        await play.bus.publish([Outgoing(play.names.dead, "", b"{}")])
        assert await play.assigned("ann") == first
        await until(lambda: play.rows("select 1 from dead_letters where body = '{}'"))


async def test_a_paused_listener_takes_nothing_and_keeps_it(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        async with play.db.begin() as connection:
            await until(lambda: play.rows("select 1 from listeners where name = 'ann'"))
            await listeners.set_paused(connection, "ann", True, actor="test")
        id_ = await play.inject("ann")
        await until(lambda: play.rows("select 1 from messages where state = 'ready'"))
        async with play.db.begin() as connection:
            await listeners.set_paused(connection, "ann", False, actor="test")
        hint = ControlHint(kind="resume", name="ann").model_dump_json().encode()
        await play.bus.publish([Outgoing(play.names.control, "", hint, persistent=False)])
        assert (await play.assigned("ann")).message_id == id_


async def test_a_window_holds_and_every_thread_gets_its_share(database_url: str) -> None:
    organism = given.organism(
        given.listener("ann", peers=("tool",)), given.listener("tool", agent=False, window=4), name="shares"
    )
    async with stage(database_url, organism) as play:
        noisy = await play.inject("ann")
        await play.report(await play.assigned("ann"), *(given.ask("tool") for _ in range(50)))
        held = [await play.assigned("tool") for _ in range(4)]
        quiet = await play.inject("ann")
        await play.report(await play.assigned("ann"), given.ask("tool"))
        await until(lambda: play.rows("select 1 from messages m where to_id = 'tool' and state = 'ready' limit 1"))
        await until(
            lambda: play.rows(
                "select 1 from messages where thread_id in (select thread_id from inbox "
                "where id = :id) and to_id = 'tool'",
                id=quiet,
            )
        )
        assert len(await play.rows("select 1 from messages where state = 'out' and to_id = 'tool'")) == 4
        await play.answer(held[0])
        following = await play.assigned("tool")
        assert following.envelope.thread_id == (await play.thread_of(quiet)).id
        assert following.envelope.thread_id != (await play.thread_of(noisy)).id


async def test_capacity_is_what_the_live_workers_say(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        heartbeat = Heartbeat(service="agent-worker", instance="w", listeners=("ann", "bob"), capacity=40)
        body = heartbeat.model_dump_json().encode()

        async def told() -> object:
            await play.bus.publish([Outgoing(play.names.events, "heartbeat.agent-worker", body, persistent=False)])
            return await play.rows("select 1 from listeners where name = 'bob' and capacity = 40")

        await until(told)
        (tool,) = await play.rows("select capacity from listeners where name = 'tool'")
        assert tool.capacity == 0


async def test_before_all_workers_had_the_time_to_be_heard_capacity_only_grows(database_url: str) -> None:
    db = Database.connect(database_url)
    async with db.begin() as connection:
        await configuration.publish(connection, _organism())
        for said, lower, known in ((40, False, 40), (20, False, 40), (20, True, 20)):
            await save_capacities(connection, {"elsewhere": 7, "ann": said}, lower=lower)
            assert await connection.scalar(text("select capacity from listeners where name = 'ann'")) == known
    await db.close()


async def test_one_frame_tells_all_that_a_batch_changed(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        id_ = await play.inject("ann")
        assignment = await play.assigned("ann")
        await play.report(assignment, given.ask("bob"), given.ask("tool"))
        events = await play.events(lambda events: sum(event["event"] == "message" for event in events) == 3)
        first, second = (frame.events for frame in play.frames)
        assert [event["event"] for event in first] == ["message", "thread_updated", "agent_state"]
        message = first[0]
        assert (message["id"], message["slotIndex"], message["from"], message["to"]) == (str(id_), 1, "api", "ann")
        assert message["payloadXml"].encode() == given.question("ann")
        assert [event["slotIndex"] for event in second if event["event"] == "message"] == [2, 3]
        states = {event["agent"]: event["state"] for event in second if event["event"] == "agent_state"}
        assert states == {"ann": "idle", "bob": "processing", "tool": "processing"}
        assert any(event["event"] == "thread_updated" and event["messageCount"] == 3 for event in events)


async def test_a_stop_that_is_asked_for_ends_the_router(database_url: str) -> None:
    async with stage(database_url, _organism(), routers=2) as play:
        await play.inject("ann")
        await play.assigned("ann")
        async with play.db.begin() as connection:
            await organism_state.request_stop(connection, actor="test")
        await asyncio.wait_for(asyncio.gather(*play.running), LIMIT)


_YAML = """
organism: {name: tested}
listeners:
  - name: NAME
    payload_class: things.Question
    response_class: things.Answer
    handler: things.handle
    description: It listens
"""
_MODULE = """
from dataclasses import dataclass


@dataclass
class Question:
    text: str = ""


@dataclass
class Answer:
    text: str = ""


async def handle(payload: Question, metadata: object) -> None: ...
"""


async def test_a_reload_is_taken_and_what_waits_for_who_is_gone_fails(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text(_MODULE)
    before = parse_organism(_YAML.replace("NAME", "ann"), tmp_path)
    after = parse_organism(_YAML.replace("NAME", "zoe"), tmp_path)
    async with stage(database_url, before) as play:
        await until(lambda: play.rows("select 1 from listeners where name = 'ann'"))
        async with play.db.begin() as connection:
            await listeners.set_paused(connection, "ann", True, actor="test")
        waiting = await play.inject("ann")
        await until(lambda: play.rows("select 1 from messages where state = 'ready'"))
        async with play.db.begin() as connection:
            await configuration.publish(connection, after)
        assert (await play.ended(waiting)).error == read_error(not_reachable().payload).line
        new = await play.inject("zoe")
        queue = await until(lambda: _consume(play, "zoe"))
        play.queues["zoe"] = queue
        assert (await play.assigned("zoe")).message_id == new


async def _consume(play: Stage, listener: str) -> Consumer | None:
    """The new listener's queue, as soon as the router has declared it."""
    name = play.names.agent(listener)
    return await play.bus.consume(name, prefetch=1) if await play.bus.depth(name) is not None else None


async def test_its_connections_may_be_cut_at_any_time_after_its_start(database_url: str) -> None:
    async with stage(database_url, _organism()) as play:
        await until(lambda: play.rows("select 1 from listeners"))
        ids = []
        for _ in range(10):
            ids.append(await play.inject("ann"))
            await play.change(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            await play.answer(await play.assigned("ann"))
        assert {(await play.ended(id_)).status for id_ in ids} == {"completed"}


async def test_two_routers_are_one(database_url: str) -> None:
    async with stage(database_url, _organism(), routers=2) as play:
        ids = [await play.inject("ann") for _ in range(20)]
        for _ in ids:
            await play.report(await play.assigned("ann"), given.ask("tool"))
        for _ in ids:
            await play.answer(await play.assigned("tool"))
        for _ in ids:
            await play.answer(await play.assigned("ann"))
        ended = [await play.ended(id_) for id_ in ids]
        assert [(thread.status, thread.message_count) for thread in ended] == [("completed", 4)] * 20
