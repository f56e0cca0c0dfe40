"""What a redrive makes of a dead letter: the call goes on where its failure broke it."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from tests.support import routing as given
from tests.support.routing_scene import THREAD, Scene
from xml_pipeline.envelope.model import API, Kind
from xml_pipeline.routing.items import Inject, Junk
from xml_pipeline.routing.system_messages import read_error
from xml_pipeline.storage.routing_rows import CallRow, Changes, LetterRow, MessageRow, NewMessage, ThreadRow


def _scene() -> Scene:
    """`ann` takes errors, `shy` takes none; `log` answers nothing."""
    return Scene(
        given.organism(
            given.listener("ann", peers=("shy", "bob"), attempts=1),
            given.listener("shy", peers=("bob", "log"), attempts=1, accepts_errors=False),
            given.listener("bob", attempts=1, agent=False),
            given.listener("log", attempts=1, agent=False, responds=False),
        )
    )


def _failed(scene: Scene, message: MessageRow) -> LetterRow:
    """Have the message fail for good; the letter it left."""
    changes = scene.changes(given.failed(message.id, reason="broken"))
    scene.apply(changes)
    return scene.letter(changes.dead_letters[0], kind=Kind(message.kind))


def _redriven(scene: Scene, letter: LetterRow, to: str, payload: bytes | None = None) -> NewMessage:
    changes = scene.changes(scene.redrive(letter, to, payload))
    scene.apply(changes)
    (message,) = changes.inserts
    return message


def _thread(changes: Changes) -> ThreadRow:
    (thread,) = changes.threads
    return thread


def test_a_failure_notes_what_it_closed() -> None:
    scene = _scene()
    top = scene.call(API, "shy")
    deep = scene.call("shy", "bob", top)
    (letter,) = scene.changes(given.failed(scene.out(deep).id)).dead_letters
    assert (letter.calls, letter.failed) == ((deep.id, top.id), True)


def test_a_failure_that_a_caller_takes_closes_its_own_call_alone() -> None:
    scene = _scene()
    deep = scene.call("ann", "bob", scene.call(API, "ann"))
    (letter,) = scene.changes(given.failed(scene.out(deep).id)).dead_letters
    assert (letter.calls, letter.failed) == ((deep.id,), False)


def test_a_failure_after_the_answer_closes_nothing() -> None:
    scene = _scene()
    call = scene.call(API, "ann", answered=True)
    (letter,) = scene.changes(given.failed(scene.out(call).id)).dead_letters
    assert (letter.calls, letter.failed) == ((), False)


def test_a_deep_failure_goes_on_where_it_broke_and_the_final_answer_still_comes() -> None:
    scene = _scene()
    top = scene.call(API, "shy")
    deep = scene.call("shy", "bob", top)
    old = scene.out(deep)
    letter = _failed(scene, old)
    assert (scene.thread.open, scene.thread.failed) == (0, 1)
    again = _redriven(scene, letter, "bob", given.question("bob", "corrected"))
    assert (again.id, again.redrive_of) == (uuid5(letter.id, "redrive"), old.id)
    assert (again.from_id, again.to_id, again.kind, again.call_id, again.hop) == ("shy", "bob", "request", deep.id, 1)
    assert again.body == given.question("bob", "corrected")
    assert (scene.thread.open, scene.thread.failed, scene.thread.error) == (1, 0, None)
    assert [(c.answered, c.pending, c.open) for c in (scene.calls[top.id], scene.calls[deep.id])] == [
        (False, 1, 0),
        (False, 0, 1),
    ]
    scene.apply(changes := scene.changes(given.ok(again.id, given.respond(given.reply("bob")))))
    (reply,) = changes.inserts
    assert (reply.to_id, reply.call_id, reply.remaining) == ("shy", top.id, 0)
    (answer,) = scene.changes(given.ok(reply.id, given.respond(given.reply("shy")))).inserts
    assert (answer.to_id, answer.kind, answer.answers) == (API, "response", top.id)


def test_a_caller_that_had_taken_the_error_hears_a_second_time() -> None:
    scene = _scene()
    top = scene.call(API, "ann")
    letter = _failed(scene, scene.out(scene.call("ann", "bob", top)))
    again = _redriven(scene, letter, "bob")
    assert scene.calls[top.id].pending == 1
    (reply,) = scene.changes(given.ok(again.id, given.respond(given.reply("bob")))).inserts
    assert (reply.to_id, reply.kind, reply.call_id) == ("ann", "response", top.id)


def test_a_reply_that_could_not_be_handled_is_handled_again() -> None:
    scene = _scene()
    top = scene.call(API, "ann")
    asked = scene.call("ann", "bob", top, answered=True)
    top.pending = 2
    reply = scene.out(top, Kind.RESPONSE, from_id="bob")
    changes = scene.changes(given.failed(reply.id))
    scene.apply(changes)
    letter = scene.letter(changes.dead_letters[0], kind=Kind.RESPONSE, answers=asked.id)
    again = _redriven(scene, letter, "ann", given.reply("bob"))
    assert (again.from_id, again.kind, again.call_id, again.answers) == ("bob", "response", top.id, asked.id)
    assert again.remaining == 2
    assert (scene.calls[top.id].answered, scene.calls[top.id].open) == (False, 1)


def test_one_that_fails_again_leaves_a_letter_of_its_own_and_tells_again() -> None:
    scene = _scene()
    top = scene.call(API, "shy")
    letter = _failed(scene, scene.out(scene.call("shy", "bob", top)))
    again = _redriven(scene, letter, "bob")
    changes = scene.changes(given.failed(again.id))
    (second,) = changes.dead_letters
    (error,) = changes.inserts
    assert (second.id, second.message_id) == (uuid5(again.id, "dead-letter"), again.id)
    assert second.id != letter.id
    assert error.id not in scene.messages
    assert (frozenset(second.calls), second.failed, _thread(changes).failed) == (letter.calls, True, 1)


@pytest.mark.parametrize(("to", "code"), [("bob", "invalid-payload"), ("gone", "not-reachable")])
def test_what_the_configuration_refuses_by_now_tells_nobody_twice(to: str, code: str) -> None:
    scene = _scene()
    top = scene.call(API, "shy")
    letter = _failed(scene, scene.out(scene.call("shy", "bob", top)))
    changes = scene.changes(scene.redrive(letter, to, b"<old.question></old.question>"))
    (message,), (second,) = changes.inserts, changes.dead_letters
    assert (message.state, message.outcome, message.redrive_of) == ("closed", "failed", letter.message_id)
    assert (second.code, frozenset(second.calls), second.failed) == (code, letter.calls, True)
    assert (_thread(changes).open, _thread(changes).failed) == (0, 1)
    assert [call for call in changes.changed_calls if not call.answered] == []


def test_what_never_became_a_message_is_a_new_request_from_outside() -> None:
    scene = _scene()
    changes = scene.changes(Inject(scene.accepted("ann", body=b"rubbish")))
    scene.apply(changes)
    letter = scene.letter(changes.dead_letters[0])
    again = _redriven(scene, letter, "ann")
    assert (again.from_id, again.kind, again.redrive_of) == (API, "request", letter.message_id)
    assert scene.calls[again.id] == CallRow(again.id, THREAD, API, "ann", None, awaited=True)
    assert (scene.thread.open, scene.thread.failed, scene.thread.error) == (1, 0, None)


def test_an_inject_that_was_refused_is_a_new_request_from_outside() -> None:
    scene = _scene()
    id_ = scene.accepted("ann", body=given.inject("bob", THREAD).body)
    changes = scene.changes(Inject(id_))
    scene.apply(changes)
    letter = scene.letter(changes.dead_letters[0])
    assert scene.thread.failed == 1
    again = _redriven(scene, letter, "ann")
    assert (again.call_id, again.redrive_of, scene.thread.failed) == (again.id, id_, 0)
    refused = scene.changes(scene.redrive(letter, "ann", given.question("bob")))
    assert read_error(refused.inserts[-1].body).code == "invalid-payload"


def test_a_redrive_that_cannot_be_routed_is_a_letter_about_the_same_message() -> None:
    scene = _scene()
    letter = _failed(scene, scene.out(scene.call("shy", "bob", scene.call(API, "shy"))))
    again = scene.redrive(letter, "bob")
    changes = scene.changes(Junk(uuid4(), "22021", b"", "unroutable", again.message_id))
    (second,) = changes.dead_letters
    assert (second.message_id, frozenset(second.calls), second.failed) == (letter.message_id, letter.calls, True)
    assert second.id != letter.id
    assert (_thread(changes).open, _thread(changes).failed, changes.inserts) == (0, 1, ())


def test_a_redrive_whose_letter_somebody_deleted_can_never_speak_for_api() -> None:
    scene = _scene()
    letter = _failed(scene, scene.out(scene.call("shy", "bob", scene.call(API, "shy"))))
    again = scene.redrive(letter, "bob")
    scene.letters.clear()
    with pytest.raises(KeyError):
        scene.changes(again)
    (second,) = scene.changes(Junk(uuid4(), "gone", b"", "unroutable", again.message_id)).dead_letters
    assert second.message_id is None


def test_a_redrive_that_comes_again_or_into_a_killed_thread_changes_nothing() -> None:
    scene = _scene()
    letter = _failed(scene, scene.out(scene.call(API, "ann")))
    again = scene.redrive(letter, "ann")
    assert len(scene.changes(again, again).inserts) == 1
    scene.thread.status = "killed"
    assert scene.changes(again) == Changes()


def test_a_call_in_which_nothing_can_come_any_more_stays_closed() -> None:
    """`shy` heard of `bob` while its own call was closed, and its answer was too late. `log` answers nothing."""
    scene = _scene()
    top = scene.call(API, "shy")
    noted, asked = scene.call("shy", "log", top), scene.call("shy", "bob", top)
    letter = _failed(scene, scene.out(noted))
    scene.apply(changes := scene.changes(given.ok(scene.out(asked).id, given.respond(given.reply("bob")))))
    scene.apply(scene.changes(given.ok(changes.inserts[0].id, given.respond(given.reply("shy")))))
    again = _redriven(scene, letter, "log")
    assert (scene.calls[top.id].answered, scene.thread.failed) == (True, 1)
    scene.apply(scene.changes(given.ok(again.id)))
    assert (scene.thread.open, scene.thread.failed) == (0, 1)


_CALLEES = st.lists(st.sampled_from(["ann", "shy", "bob"]), min_size=1, max_size=5)


@forall(_CALLEES, st.integers(1, 4), st.data())
def test_counters_hold_and_every_call_is_answered_in_the_end(
    callees: list[str], failures: int, data: st.DataObject
) -> None:
    """A chain of calls whose deepest fails, is redriven, perhaps fails again, and answers at last."""
    scene = _scene()
    calls: list[CallRow] = []
    for caller, callee in zip([API, *callees], callees, strict=False):
        calls.append(scene.call(caller, callee, calls[-1] if calls else None))
    message_id: UUID = scene.out(calls[-1]).id
    for _ in range(failures):
        letter = _failed(scene, scene.messages[message_id])
        _check(scene)
        _drain(scene, data)
        message_id = _redriven(scene, letter, callees[-1]).id
        _check(scene)
    _drain(scene, data)
    assert scene.thread.open == 0
    for call in scene.calls.values():
        assert call.answered or not call.awaited


def _drain(scene: Scene, data: st.DataObject) -> None:
    """Handle all that is open, with an answer or without."""
    while ids := [message.id for message in scene.messages.values() if message.state == "out"]:
        message = scene.messages[data.draw(st.sampled_from(ids))]
        answer = [given.respond(given.reply(message.to_id))] * data.draw(st.integers(0, 1))
        scene.apply(scene.changes(given.ok(message.id, *answer)))
        _check(scene)


def _check(scene: Scene) -> None:
    open_messages = [message for message in scene.messages.values() if message.state != "closed"]
    assert scene.thread.open == len(open_messages)
    assert scene.thread.failed >= 0
    for call in scene.calls.values():
        assert call.open == sum(message.call_id == call.id for message in open_messages)
        waiting = [one for one in scene.calls.values() if one.parent == call.id and one.awaited and not one.answered]
        assert call.pending == len(waiting)
