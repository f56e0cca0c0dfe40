"""The router's decisions, one by one, without a database."""

from __future__ import annotations

from uuid import uuid4, uuid5

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from tests.support import routing as given
from tests.support.routing_scene import THREAD, four_listeners, only, thread_in
from xml_pipeline.envelope.codec import canonical_payload, payload_tag
from xml_pipeline.envelope.model import API, SYSTEM, Kind, Outcome, Output, Turn
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.routing.items import Inject, Item, Overdue, TurnReport
from xml_pipeline.routing.system_messages import huh, not_reachable, read_error, system_error
from xml_pipeline.storage.routing_rows import CallRow, Changes, MessageRow


def _call(changes: Changes, call: CallRow) -> CallRow:
    return next(row for row in changes.changed_calls if row.id == call.id)


# Injects


def test_an_inject_becomes_a_request_and_opens_its_call() -> None:
    scene = four_listeners()
    id_ = scene.accepted("ann")
    changes = scene.changes(Inject(id_))
    message = only(changes)
    assert (message.id, message.from_id, message.to_id, message.slot, message.call_id) == (id_, API, "ann", 11, id_)
    assert (message.state, message.mailbox, message.body) == ("waiting", True, given.question("ann"))
    assert changes.new_calls == (CallRow(id_, THREAD, API, "ann", None, awaited=True),)
    assert changes.taken == (id_,)
    assert thread_in(changes).open == 1
    assert thread_in(changes).participants == (API, "ann")


def test_an_inject_that_comes_again_changes_nothing() -> None:
    scene = four_listeners()
    id_, taken = scene.accepted("ann"), scene.accepted("ann", taken=True)
    changes = scene.changes(Inject(id_), Inject(id_), Inject(taken))
    assert len(changes.inserts) == 1


def test_an_envelope_that_no_gateway_accepted_is_a_dead_letter() -> None:
    changes = four_listeners().changes(Inject(uuid4(), b"<message/>"))
    (letter,) = changes.dead_letters
    assert (letter.code, letter.body, changes.inserts) == ("not-accepted", b"<message/>", ())


@pytest.mark.parametrize(("to", "code"), [("gone", "not-reachable"), ("bob", "invalid-payload")])
def test_an_inject_that_fits_the_configuration_no_more_is_answered_with_an_error(to: str, code: str) -> None:
    scene = four_listeners()
    id_ = scene.accepted(to, body=given.inject("ann", THREAD).body)
    changes = scene.changes(Inject(id_))
    request, answer = changes.inserts
    assert (request.state, request.outcome, answer.to_id, answer.answers) == ("closed", "failed", API, id_)
    assert read_error(answer.body).code == code
    assert (thread_in(changes).open, thread_in(changes).failed) == (0, 1)
    assert [letter.message_id for letter in changes.dead_letters] == [id_]


def test_an_inject_that_is_no_envelope_ends_in_an_error() -> None:
    scene = four_listeners()
    changes = scene.changes(Inject(scene.accepted("ann", body=b"rubbish")))
    assert (changes.inserts, thread_in(changes).open, thread_in(changes).failed) == ((), 0, 1)


def test_what_was_accepted_before_a_kill_is_logged_and_goes_nowhere() -> None:
    scene = four_listeners()
    id_ = scene.accepted("ann")
    scene.thread.status = "killed"
    changes = scene.changes(Inject(id_), Inject(id_))
    (message,) = changes.inserts
    assert (message.id, message.from_id, message.to_id, message.outcome) == (id_, API, "ann", "killed")
    assert (changes.taken, changes.new_calls, changes.mailboxes) == ((id_,), (), frozenset())
    assert (thread_in(changes).open, thread_in(changes).slots) == (0, scene.thread.slots + 1)


# Requests and responses


def test_a_request_to_a_peer_is_counted_as_pending() -> None:
    scene = four_listeners()
    call = scene.call(API, "ann")
    message = scene.out(call)
    changes = scene.changes(given.ok(message.id, given.ask("bob"), given.ask("log")))
    bob, log = changes.inserts
    assert bob.id == uuid5(message.id, "0")
    assert (bob.from_id, bob.to_id, bob.kind, bob.hop, bob.mailbox) == ("ann", "bob", "request", 2, False)
    assert [(call.id, call.parent, call.awaited) for call in changes.new_calls] == [
        (bob.id, call.id, True),
        (log.id, call.id, False),
    ]
    assert (_call(changes, call).pending, _call(changes, call).open) == (1, 0)


def test_a_response_resumes_the_caller_in_its_own_call_with_what_remains() -> None:
    scene = four_listeners()
    outer = scene.call(API, "ann")
    first, second = scene.call("ann", "bob", outer), scene.call("ann", "bob", outer)
    one, two = scene.out(first), scene.out(second)
    answer = given.respond(given.reply("bob"))
    changes = scene.changes(given.ok(one.id, answer), given.ok(two.id, answer))
    assert [(m.to_id, m.kind, m.call_id, m.answers, m.remaining) for m in changes.inserts] == [
        ("ann", "response", outer.id, first.id, 1),
        ("ann", "response", outer.id, second.id, 0),
    ]
    assert (_call(changes, outer).pending, _call(changes, outer).open) == (0, 2)
    assert _call(changes, first).answered


def test_a_response_to_api_is_closed_as_it_is_inserted() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    changes = scene.changes(given.ok(message.id, given.respond(given.reply("ann"))))
    assert (only(changes).state, only(changes).outcome, only(changes).call_id) == ("closed", "delivered", None)
    assert (thread_in(changes).open, thread_in(changes).failed) == (0, 0)


def test_only_the_first_response_of_a_call_counts() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    answer = given.respond(given.reply("ann"))
    decision = scene.decide(given.ok(message.id, answer, answer))
    assert len(decision.changes.inserts) == 1
    assert [note.event for note in decision.notes] == ["response_after_answer"]


def test_a_callee_that_ends_without_an_answer_gives_one_by_the_system() -> None:
    scene = four_listeners()
    outer = scene.call(API, "ann")
    inner = scene.call("ann", "bob", outer)
    changes = scene.changes(given.ok(scene.out(inner).id))
    message = only(changes)
    assert (message.from_id, message.to_id, message.kind, message.remaining) == ("bob", "ann", "error", 0)
    assert read_error(message.body).code == "no-answer"
    assert message.id == uuid5(changes.closings[0].message_id, "answer")


def test_a_call_with_answers_to_come_is_not_over() -> None:
    scene = four_listeners()
    outer = scene.call(API, "ann")
    message = scene.out(outer)
    scene.call("ann", "bob", outer)
    assert scene.changes(given.ok(message.id)).inserts == ()


def test_a_listener_without_responses_ends_silently_and_fails_aloud() -> None:
    scene = four_listeners()
    outer = scene.call(API, "ann")
    quiet, loud = scene.out(scene.call("ann", "log", outer)), scene.out(scene.call("ann", "log", outer))
    assert outer.pending == 0
    assert scene.changes(given.ok(quiet.id)).inserts == ()
    assert read_error(only(scene.changes(given.failed(loud.id))).body).code == "handler-failed"


def test_an_error_that_a_handler_gives_is_an_error_to_the_caller() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    error = system_error("no-luck", "Nothing found.").payload
    changes = scene.changes(given.ok(message.id, given.respond(error)))
    assert (only(changes).kind, only(changes).body) == ("error", error)
    assert (thread_in(changes).failed, thread_in(changes).error) == (1, "no-luck: Nothing found.")


# What cannot pass


def test_an_error_goes_up_until_somebody_takes_it() -> None:
    scene = four_listeners()
    top = scene.call(API, "ann")
    middle = scene.call("ann", "shy", top)
    message = scene.out(scene.call("shy", "bob", middle))
    changes = scene.changes(given.failed(message.id, reason="no disk"))
    answer = only(changes)
    assert (answer.from_id, answer.to_id, answer.call_id, answer.answers) == ("shy", "ann", top.id, middle.id)
    assert read_error(answer.body).text == "no disk"
    assert (_call(changes, middle).answered, _call(changes, middle).pending) == (True, 0)
    assert (_call(changes, top).pending, _call(changes, top).open) == (0, 1)


def test_a_huh_that_goes_up_becomes_an_error() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "shy"))
    changes = scene.changes(given.ok(message.id, Output(Kind.REQUEST, "bob", b"<wrong/>")))
    assert (only(changes).to_id, only(changes).payload_type) == (API, "SystemError")
    assert read_error(only(changes).body).code == "invalid-payload"


@pytest.mark.parametrize("wrong", [b"<wrong/>", None], ids=["payload", "xml"])
def test_a_sender_who_said_it_wrongly_gets_a_hint(wrong: bytes | None) -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    output = Output(Kind.REQUEST, "bob", wrong, None if wrong else "not well-formed")
    changes = scene.changes(given.ok(message.id, output))
    hint = only(changes)
    assert (hint.from_id, hint.to_id, hint.kind, hint.call_id) == (SYSTEM, "ann", "error", message.call_id)
    assert hint.payload_type == "huh"
    assert hint.answers is None
    assert thread_in(changes).participants == (API, "ann")


def test_no_huh_answers_a_huh() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"), Kind.ERROR, tag="huh")
    changes = scene.changes(given.ok(message.id, Output(Kind.RESPONSE, None, b"<wrong/>")))
    assert only(changes).payload_type == "SystemError"


@pytest.mark.parametrize("target", ["nobody", "ann", "shy", API, SYSTEM, ""])
def test_a_target_out_of_reach_is_refused_in_one_wording(target: str) -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    changes = scene.changes(given.ok(message.id, Output(Kind.REQUEST, target, b"<x/>")))
    assert only(changes).body == not_reachable().payload
    (audit,) = changes.audits
    assert (audit.actor, audit.action, audit.subject) == ("ann", "send-blocked", target)


def test_what_was_refused_counts_down_like_answers() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    refused = Output(Kind.REQUEST, "nobody", b"<x/>")
    changes = scene.changes(given.ok(message.id, refused, given.ask("bob"), refused))
    errors = [message for message in changes.inserts if message.kind == "error"]
    assert [error.remaining for error in errors] == [2, 1]


def test_a_thread_that_runs_away_is_stopped_by_an_error_to_the_caller() -> None:
    for settings, outputs in (
        ({"max_hops": 1}, [given.ask("bob")]),
        ({"max_messages_per_thread": 10}, [given.ask("bob")]),
        ({"max_outputs_per_turn": 2}, [given.ask("bob")] * 3),
        ({"max_hops": 1}, [Output(Kind.REQUEST, "bob", b"<wrong/>")]),
    ):
        scene = four_listeners(**settings)
        message = scene.out(scene.call(API, "ann"))
        changes = scene.changes(given.ok(message.id, *outputs))
        assert read_error(only(changes).body).code == "limit"
        assert only(changes).to_id == API


# The system's own words


@forall(st.text())
def test_the_systems_words_are_canonical_and_valid_whatever_they_say(text: str) -> None:
    catalog = Catalog(given.organism(given.listener("ann")))
    for error in (huh(text), system_error("code", text)):
        assert canonical_payload(error.payload) == error.payload
        assert payload_tag(error.payload) == error.tag
        catalog.validate_response("ann", error.payload)
        assert read_error(error.payload) == error


# Whatever happens

_EXAMPLES = st.lists(
    st.tuples(
        st.sampled_from(["ok", "again", "error", "timeout", "overdue"]),
        st.integers(0, 3),
        st.lists(st.sampled_from(["bob", "ann", "log", "nobody", "wrong", "answer"]), max_size=3),
    ),
    max_size=12,
)


@forall(_EXAMPLES)
def test_counters_are_what_they_count(examples: list[tuple[str, int, list[str]]]) -> None:
    scene = four_listeners()
    top = scene.call(API, "ann")
    middle = scene.call("ann", "shy", top)
    inner = scene.call("shy", "bob", middle)
    handled = [scene.out(call) for call in (top, middle, inner, inner)]
    items = [_item(kind, handled[which], words) for kind, which, words in examples]
    before = sum(call.open for call in scene.calls.values())
    decision = scene.decide(*items)
    changes = decision.changes
    inserted = [message for message in changes.inserts if message.state != "closed"]
    thread = changes.threads[0] if changes.threads else scene.thread
    assert thread.open == 4 - len(changes.closings) + len(inserted)
    assert [message.slot for message in changes.inserts] == list(range(11, 11 + len(changes.inserts)))
    assert len({message.id for message in changes.inserts}) == len(changes.inserts)
    calls = {call.id: call for call in (*scene.calls.values(), *changes.new_calls, *changes.changed_calls)}
    assert sum(call.open for call in calls.values()) == before - len(changes.closings) + len(inserted)
    for call in calls.values():
        waiting = [one for one in calls.values() if one.parent == call.id and one.awaited and not one.answered]
        assert call.pending == len(waiting)
        ended = call.awaited and not call.answered and call.open == 0 and call.pending == 0
        assert not ended
    assert decision == scene.decide(*items)


def _item(kind: str, message: MessageRow, words: list[str]) -> Item:
    turn_id = uuid5(message.id, f"{kind}{words}")
    if kind == "overdue":
        return Overdue(message.id, 1)
    if kind in ("error", "timeout"):
        return TurnReport(Turn(turn_id, message.id, 1, Outcome(kind)))
    return TurnReport(Turn(turn_id, message.id, 1, Outcome.OK, tuple(_output(message, word) for word in words)))


def _output(message: MessageRow, word: str) -> Output:
    if word == "answer":
        return given.respond(given.reply(message.to_id))
    return Output(Kind.REQUEST, "bob", b"<wrong/>") if word == "wrong" else given.ask(word)
