"""All faults, by their names; and those on which each bug has to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from random import Random
from typing import NamedTuple

from tests.chaos.crew import Wire, Wiring, as_usual, broken
from tests.chaos.faults import brokers, databases, networks, others, processes
from tests.chaos.ground import Ground
from tests.chaos.run import Fault, Stage

ROOMS = (others.FAULTS, processes.FAULTS, brokers.FAULTS, databases.FAULTS, networks.FAULTS)
FAULTS: Mapping[str, Fault] = {fault.name: fault for room in ROOMS for fault in room}


class Seen(NamedTuple):
    """The fault that brings a bug to light, and what is found then, as a pattern."""

    on: str
    by: str


SEEN_ON: Mapping[str, Seen] = {
    "ack-before-commit": Seen("usage-before-commit", "the usage of call .* was lost"),
    "no-duplicate-check": Seen("router-after-commit", "too many|without their one turn"),
    "unroutable-ignored": Seen("usage-queue-missing", "the usage of call .* was lost"),
    "usage-booked-again": Seen("usage-repeated", r"is booked \d+ times"),
    "states-read-with-the-lock": Seen("slow-routers", "never answered"),
    "inject-without-the-threads-lock": Seen("slow-routers", "messages never closed"),
    "release-on-turns-only": Seen("calm", "messages never closed"),
    "counts-as-meant": Seen("slow-routers", "never answered"),
}

# Seconds after which what is left open with a bug is left open for good.
_ENOUGH = 40.0
# For a table without its key, only a bug can put a call in it twice.
_WITHOUT_KEY = "alter table usage_events drop constraint pk_usage_events"


def with_bug(bug: str) -> Fault:
    """The fault on which the checker has to see this bug, with the bug in every service."""
    fault = FAULTS[SEEN_ON[bug].on]

    @contextmanager
    def wire(ground: Ground, chance: Random) -> Iterator[Wire]:
        given = nullcontext(as_usual) if fault.wire is None else fault.wire(ground, chance)
        with given as usual:

            def how(name: str, number: int) -> Wiring:
                return broken("--bug", bug, wiring=usual(name, number))

            yield how

    @contextmanager
    def strike(stage: Stage) -> Iterator[None]:
        if bug == "usage-booked-again":
            stage.ask(_WITHOUT_KEY)
        with fault.strike(stage):
            yield

    return replace(fault, name=bug, strike=strike, wire=wire, patience=_ENOUGH)
