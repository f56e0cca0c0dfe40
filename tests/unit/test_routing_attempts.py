"""How attempts at a message end: by turns, deadlines, parking, and listeners that are gone; without a database."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from tests.support import routing as given
from tests.support.routing_scene import Scene, four_listeners, only, thread_in
from xml_pipeline.envelope.model import API, Outcome, Turn
from xml_pipeline.organism.model import RETRIED, Retry
from xml_pipeline.routing.decisions import retry_delay
from xml_pipeline.routing.items import Junk, Orphaned, Overdue, Returned, TurnReport
from xml_pipeline.routing.system_messages import read_error
from xml_pipeline.storage.routing_rows import Changes


def test_the_first_ok_of_any_attempt_counts() -> None:
    for state, attempt in (("out", 2), ("out", 1), ("ready", 1)):
        scene = four_listeners()
        message = scene.out(scene.call(API, "ann"), state=state, attempt=attempt)
        changes = scene.changes(given.ok(message.id, attempt=1))
        assert [turn.counted for turn in changes.turns] == [True]
        assert len(changes.closings) == 1


def test_what_comes_late_is_kept_and_changes_nothing() -> None:
    late = (("closed", 1, Outcome.OK), ("ready", 0, Outcome.OK), ("ready", 1, Outcome.ERROR), ("out", 2, Outcome.ERROR))
    for state, attempt, outcome in late:
        scene = four_listeners()
        message = scene.out(scene.call(API, "ann"), state=state, attempt=attempt)
        turn = Turn(uuid4(), message.id, 1, outcome)
        changes = scene.changes(TurnReport(turn))
        assert [(row.id, row.counted) for row in changes.turns] == [(turn.id, False)]
        assert replace(changes, turns=()) == Changes()


def test_a_turn_that_comes_again_is_not_even_kept() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    report, known = given.failed(message.id), given.failed(message.id)
    scene.turns = frozenset((known.turn.id,))
    changes = scene.changes(known, report, report)
    assert len(changes.turns) == len(changes.postponements) == 1


def test_a_failure_is_tried_again_and_an_ok_in_the_same_batch_wins() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    changes = scene.changes(given.failed(message.id))
    assert [(p.message_id, p.attempt, p.delay) for p in changes.postponements] == [(message.id, 1, 0.5)]
    assert changes.dead_letters == ()
    changes = scene.changes(given.failed(message.id), given.ok(message.id, given.respond(given.reply("ann"))))
    assert (changes.postponements, len(changes.closings), len(changes.inserts)) == ((), 1, 1)


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.ERROR, "handler-failed"), (Outcome.TIMEOUT, "timeout")], ids=["error", "timeout"]
)
def test_the_last_failure_is_a_dead_letter_and_an_error_to_the_caller(outcome: Outcome, code: str) -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"), attempt=2)
    changes = scene.changes(given.failed(message.id, attempt=2, outcome=outcome))
    (letter,) = changes.dead_letters
    assert (letter.message_id, letter.code, letter.attempts, letter.body) == (message.id, code, 2, None)
    assert read_error(only(changes).body).code == code
    assert (thread_in(changes).open, thread_in(changes).failed) == (0, 1)


def test_an_overdue_message_is_sent_again_at_once_and_lost_in_the_end() -> None:
    scene = four_listeners()
    first, last = scene.out(scene.call(API, "ann")), scene.out(scene.call(API, "ann"), attempt=2)
    changes = scene.changes(Overdue(first.id, 1), Overdue(last.id, 2))
    assert [p.delay for p in changes.postponements] == [0.0]
    assert [letter.code for letter in changes.dead_letters] == ["lost"]


@pytest.mark.parametrize("outcome", RETRIED)
def test_only_the_outcomes_that_are_listed_are_tried_again(outcome: str) -> None:
    for on in ((outcome,), tuple(other for other in RETRIED if other != outcome)):
        scene = Scene(given.organism(given.listener("ann", on=on)))
        message = scene.out(scene.call(API, "ann"))
        lost = Overdue(message.id, 1)
        item = lost if outcome == "lost" else given.failed(message.id, outcome=Outcome(outcome))
        changes = scene.changes(item)
        retried = [(one.message_id, one.jitter) for one in changes.postponements]
        letters = [(letter.message_id, letter.attempts) for letter in changes.dead_letters]
        assert (retried, letters) == (([(message.id, 0.2)], []) if outcome in on else ([], [(message.id, 1)]))


def test_a_parked_message_keeps_its_place_and_its_attempts() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"), attempt=2, parks=1)
    changes = scene.changes(given.parked(message.id, 300, attempt=2))
    assert [(one.message_id, one.attempt, one.tokens) for one in changes.parkings] == [(message.id, 2, 300)]
    assert (changes.closings, changes.dead_letters, changes.postponements) == ((), (), ())
    assert (changes.inserts, changes.threads) == ((), ())
    # Two of its three attempts were parked: the first that fails is tried again, the next is the last.
    message.attempt, message.parks = 3, 2
    assert scene.changes(given.failed(message.id, attempt=3)).postponements
    message.attempt = 4
    (letter,) = scene.changes(given.failed(message.id, attempt=4)).dead_letters
    assert letter.attempts == 2


def test_what_is_parked_is_closed_by_an_ok_of_an_earlier_attempt_alone() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"), attempt=2)
    park = given.parked(message.id, 300, attempt=2)
    changes = scene.changes(park, given.failed(message.id, attempt=2), given.parked(message.id, 1, attempt=2))
    assert (len(changes.parkings), changes.closings, changes.postponements) == (1, (), ())
    changes = scene.changes(park, given.ok(message.id, attempt=1))
    assert (changes.parkings, len(changes.closings)) == ((), 1)
    assert not scene.changes(given.parked(message.id, 300, attempt=1)).parkings


def test_what_is_parked_for_a_listener_that_is_gone_fails() -> None:
    scene = four_listeners()
    call = scene.call(API, "ann")
    message = scene.out(call, state="ready", to_id="gone", parks=1)
    (letter,) = scene.changes(Orphaned(message.id)).dead_letters
    assert letter.message_id == message.id


def test_an_overdue_message_that_moved_on_is_left_alone() -> None:
    scene = four_listeners()
    call = scene.call(API, "ann")
    again, closed = scene.out(call, attempt=2), scene.out(call, state="closed")
    early = scene.out(call, overdue=False)
    items = (Overdue(again.id, 1), Overdue(closed.id, 1), Overdue(early.id, 1), Overdue(uuid4(), 1))
    assert scene.changes(*items) == Changes()


def test_what_the_broker_gave_up_is_sent_again_in_the_same_attempt() -> None:
    scene = four_listeners()
    message = scene.out(scene.call(API, "ann"))
    assert scene.changes(Returned(message.id, 1), Returned(message.id, 2)) == Changes(returned=(message.id,))


def test_what_waits_for_a_listener_that_is_gone_fails() -> None:
    scene = four_listeners()
    call = scene.call(API, "ann")
    orphan = scene.out(call, state="ready", to_id="gone")
    others = scene.out(call, state="ready"), scene.out(call, to_id="gone")
    changes = scene.changes(Orphaned(orphan.id), *(Orphaned(other.id) for other in others))
    assert [closing.message_id for closing in changes.closings] == [orphan.id]
    assert read_error(only(changes).body).code == "not-reachable"


def test_bytes_that_cannot_be_read_are_kept() -> None:
    (letter,) = four_listeners().changes(Junk(uuid4(), "no XML", b"\x00\xff")).dead_letters
    assert (letter.code, letter.reason, letter.body) == ("unreadable", "no XML", b"\x00\xff")


def test_an_inject_that_cannot_be_routed_ends_in_an_error() -> None:
    scene = four_listeners()
    id_ = scene.accepted("ann")
    changes = scene.changes(Junk(uuid4(), "22021", b"", "unroutable", id_))
    assert (changes.taken, thread_in(changes).open, thread_in(changes).failed) == ((id_,), 0, 1)


@forall(st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 1000))
def test_a_wait_between_attempts_grows_and_is_bounded(attempt: int, backoff: float, most: float) -> None:
    retry = Retry(3, backoff, most)
    assert retry_delay(retry, attempt) <= retry_delay(retry, attempt + 1) <= most
    assert retry_delay(Retry(3, 0.5, 60), 3) == 2.0
