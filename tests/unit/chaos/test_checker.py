"""The checker of fault runs: nothing is found in a run that kept everything, and each planted error is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import STEPS, Allowed, Verdict, check
from tests.chaos.facts import Booked, Facts, Letter, Request, Thread
from tests.chaos.history import Entry, Operation, Told
from tests.chaos.load import Call

USED = Call(30, 12)
HOLD = Call(60, 1024)


def operation(what: str, topic: str, *told: Told, thread: str = "", message: str = "") -> Operation:
    """A request and what its client was told of each try."""
    made = Operation(what, topic, f"key {topic}")
    for one in told:
        made.take(Entry(Told.INVOKE, what, topic, made.key, thread or None))
        ids = {"thread": thread, "message": message} if one is Told.OK else {"thread": thread or None}
        made.take(Entry(one, what, topic, made.key, **ids))
    return made


def sound() -> Facts:
    """A study, two messages of one talk, a poison, a killed study: all of them as they should be."""
    talk = STEPS["talker"] + STEPS["talker"]
    return Facts(
        operations=[
            operation("study", "a", Told.OK, thread="A", message="1"),
            operation("say", "b", Told.UNKNOWN, Told.OK, thread="B", message="2"),
            operation("say", "c", Told.UNKNOWN, thread="B"),
            operation("poison", "d", Told.OK, thread="D", message="4"),
            operation("study", "e", Told.OK, thread="E", message="5"),
            operation("kill", "e", Told.OK, thread="E"),
            operation("slow", "f", Told.FAIL),
        ],
        requests=[
            Request("1", "A", "planner", "a", 1, 0, "a 2 8"),
            Request("2", "B", "talker", "b", 1, 0, "b"),
            Request("3", "B", "talker", "c", 1, 0, "c"),
            Request("4", "D", "poison", "d", 1, 1),
            Request("5", "E", "planner", "e", 0, 0),
        ],
        threads={
            "A": Thread("A", "completed", Counter(STEPS["planner"])),
            "B": Thread("B", "completed", talk),
            "D": Thread("D", "error", Counter(STEPS["poison"])),
            "E": Thread("E", "killed", Counter({("api", "planner", "request"): 1})),
        },
        letters=[Letter("handler-failed", "poison", "d")],
        truth={"x": USED, "y": USED},
        measured=[Booked("x", USED, True)],
        expired=[Booked("y", HOLD, False), Booked("z", HOLD, True)],
        anomalies={"messages never closed": 0},
        queued={"ingress": 0},
    )


def test_a_run_that_kept_everything_has_no_findings() -> None:
    verdict = check(sound(), Allowed())
    assert (verdict.lost, verdict.doubled, verdict.off) == ([], [], [])
    assert verdict.passed
    assert (verdict.accepted, verdict.unknown, verdict.unknown_happened, verdict.refused) == (4, 1, 1, 1)
    assert (verdict.measured, verdict.expired, verdict.tokens_expected, verdict.tokens_booked) == (1, 2, 42, 42)


Plant = Callable[[Facts], Facts]


def thread_as(name: str, status: str | None = None, steps: Counter[tuple[str, str, str]] | None = None) -> Plant:
    """A thread that came to another end."""

    def plant(facts: Facts) -> Facts:
        before = facts.threads[name]
        after = replace(before, status=status or before.status, steps=before.steps if steps is None else steps)
        return replace(facts, threads={**facts.threads, name: after})

    return plant


def request_as(number: int, *, replies: int = 1, errors: int = 0, told: str | None = None) -> Plant:
    """A request that the log has otherwise."""

    def plant(facts: Facts) -> Facts:
        requests = list(facts.requests)
        requests[number] = replace(requests[number], replies=replies, errors=errors, told=told)
        return replace(facts, requests=requests)

    return plant


ONE_SHORT = Counter(STEPS["planner"]) - Counter({("writer", "planner", "response"): 1})
ONE_MORE = Counter(STEPS["planner"]) + Counter({("writer", "planner", "response"): 1})


@pytest.mark.parametrize(
    "plant",
    [
        lambda facts: replace(facts, requests=[*facts.requests[1:]]),
        request_as(0, replies=0),
        request_as(0, errors=1),
        request_as(3, errors=0),
        request_as(0, told="another 2 8"),
        request_as(0, told="a 2 7"),
        request_as(1, told="c"),
        thread_as("B", status="killed"),
        thread_as("A", steps=ONE_SHORT),
        thread_as("A", status="active"),
        thread_as("A", status="error"),
        thread_as("E", status="completed"),
        lambda facts: replace(facts, letters=[]),
        lambda facts: replace(facts, truth={**facts.truth, "w": USED}),
        lambda facts: replace(facts, expired=[Booked("y", HOLD, True)]),
        lambda facts: replace(facts, expired=[Booked("y", Call(29, 1024), False)]),
        lambda facts: replace(facts, lost_attempts=1),
    ],
)
def test_what_was_lost_is_found(plant: Plant) -> None:
    verdict = check(plant(sound()), Allowed())
    assert verdict.lost
    assert not verdict.passed


@pytest.mark.parametrize(
    "plant",
    [
        lambda facts: replace(facts, requests=[*facts.requests, replace(facts.requests[0], id="9")]),
        lambda facts: replace(facts, operations=[two_answers(), *facts.operations[1:]]),
        request_as(0, replies=2),
        thread_as("A", steps=ONE_MORE),
        thread_as("E", steps=ONE_MORE),
        lambda facts: replace(facts, measured=[*facts.measured, *facts.measured]),
        lambda facts: replace(facts, expired=[*facts.expired, Booked("x", HOLD, True)]),
        lambda facts: replace(facts, letters=[*facts.letters, *facts.letters]),
    ],
)
def test_what_was_done_twice_is_found(plant: Plant) -> None:
    verdict = check(plant(sound()), Allowed())
    assert verdict.doubled
    assert not verdict.passed


def refused(status: int) -> Operation:
    """A request that a server refused."""
    made = operation("slow", "g")
    made.take(Entry(Told.UNKNOWN, "slow", "g", made.key, status=status))
    return made


def two_answers() -> Operation:
    """The same key was answered with different ids."""
    made = operation("study", "a", Told.OK, thread="A", message="1")
    made.take(Entry(Told.OK, "study", "a", made.key, thread="A", message="8"))
    return made


@pytest.mark.parametrize(
    "plant",
    [
        lambda facts: replace(facts, measured=[Booked("x", Call(30, 13), True)]),
        lambda facts: replace(facts, measured=[*facts.measured, Booked("w", USED, True)]),
        lambda facts: replace(facts, letters=[*facts.letters, Letter("lost", "planner", "a")]),
        lambda facts: replace(facts, anomalies={"messages never closed": 1}),
        lambda facts: replace(facts, queued={"ingress": 3}),
        lambda facts: replace(facts, operations=[*facts.operations, refused(422)]),
        lambda facts: replace(facts, crashes=["router 0 ended with 1"]),
        lambda facts: replace(facts, operations=facts.operations[1:]),
        lambda facts: replace(facts, operations=[operation("study", "a", Told.FAIL), *facts.operations[1:]]),
    ],
)
def test_whatever_else_is_off_is_found(plant: Plant) -> None:
    verdict = check(plant(sound()), Allowed())
    assert verdict.off
    assert not verdict.passed


@pytest.mark.parametrize(
    ("plant", "allowed"),
    [
        (lambda facts: replace(facts, expired=[Booked("y", HOLD, True)]), Allowed(expired=True)),
        (lambda facts: replace(facts, lost_attempts=2), Allowed(reruns=True)),
    ],
)
def test_what_a_fault_may_cost_is_told_and_passes(plant: Plant, allowed: Allowed) -> None:
    verdict: Verdict = check(plant(sound()), allowed)
    assert verdict.passed


def test_what_refuses_nothing_answers_no_error_and_what_runs_nothing_twice_runs_nothing_twice() -> None:
    failed = replace(sound(), operations=[*sound().operations, refused(503)])
    assert check(failed, Allowed()).passed
    assert check(failed, Allowed(errors=False)).off
    again = replace(sound(), idle_turns=1)
    assert check(again, Allowed()).passed
    assert check(again, Allowed(twice=False)).doubled


def test_what_was_accepted_once_stays_accepted_and_what_may_have_arrived_unknown() -> None:
    assert operation("study", "a", Told.OK, Told.FAIL, thread="A", message="1").told is Told.OK
    assert operation("study", "a", Told.UNKNOWN, Told.FAIL).told is Told.UNKNOWN
    assert operation("study", "a", Told.FAIL, Told.FAIL).told is Told.FAIL
    assert operation("study", "a").told is Told.UNKNOWN
