"""What happened in a run, for people: written down as it happens, put into words only where somebody has to read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import singledispatch
from itertools import groupby
from operator import itemgetter
from typing import Any

from tests.unit.routing_model.clients import Request
from tests.unit.routing_model.database import Change, Step
from tests.unit.routing_model.organism import THREADS
from tests.unit.routing_model.router import Delivery
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.routing.items import Inject, Overdue, Returned, TurnReport

_SHOWN = frozenset(("message", "thread", "inbox", "hold", "booking", "budget", "listener"))
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(slots=True)
class Trace:
    """Lines: who, what, about what."""

    lines: list[tuple[str, str, tuple[object, ...]]] = field(default_factory=list)

    def add(self, who: str, what: str, *about: object) -> None:
        """One more thing happened."""
        self.lines.append((who, what, about))

    def __str__(self) -> str:
        names = {str(id_): f"thread {number}" for number, id_ in enumerate(THREADS, start=1)}

        def short(match: re.Match[str]) -> str:
            return names.setdefault(match[0], f"#{len(names) - len(THREADS) + 1}")

        told = groupby(self._words(), key=itemgetter(0))
        lines = (f"{who}: {'; '.join(what for _, what in steps)}" for who, steps in told)
        return "\n".join(_ID.sub(short, line) for line in lines)

    def _words(self) -> Iterable[tuple[str, str]]:
        for who, what, about in self.lines:
            words = ", ".join(filter(None, map(_words, about)))
            if words or not any(isinstance(one, Change) for one in about):
                yield who, f"{what} {words}".rstrip()


@singledispatch
def _words(thing: Any) -> str:
    return str(thing)


@_words.register
def _(item: TurnReport) -> str:
    turn = item.turn
    outputs = " + ".join(f"{one.kind.value} to {one.to or 'its caller'}" for one in turn.outputs)
    return f"turn {turn.id} ({turn.outcome.value} of {turn.message_id} attempt {turn.attempt}: {outputs or 'nothing'})"


@_words.register
def _(item: Inject) -> str:
    return f"inject {item.message_id}"


@_words.register
def _(item: Overdue | Returned) -> str:
    return f"{type(item).__name__.lower()} {item.message_id} attempt {item.attempt}"


@_words.register
def _(delivery: Delivery) -> str:
    message = delivery.released
    return f"assignment {message.id} for {message.to_id} attempt {message.attempt}"


@_words.register
def _(request: Request) -> str:
    return f"request {request.id} for {request.to_id} in {request.thread_id}"


@_words.register
def _(request: HoldRequest) -> str:
    return f"hold {request.call_id} for {request.message_id}: {request.prompt_bound}+{request.max_completion}"


@_words.register
def _(reply: HoldReply) -> str:
    return f"{reply.state} {reply.call_id}"


@_words.register
def _(event: UsageEvent) -> str:
    return f"usage {event.call_id} of {event.message_id}: {event.prompt_tokens}+{event.completion_tokens}"


@_words.register
def _(release: HoldRelease) -> str:
    return f"release {release.call_id}"


@_words.register
def _(step: Step) -> str:
    return step.name


@_words.register
def _(change: Change) -> str:
    table, id_ = change.key
    before, after = _state(change.before), _state(change.after)
    return f"{table} {id_} {before} -> {after}" if table in _SHOWN else ""


def _state(row: Any) -> str:
    match row:
        case None:
            return "none"
        case _:
            names = ("state", "status", "open", "attempt", "taken", "held", "spent", "kind", "paused")
            return "/".join(str(getattr(row, name)) for name in names if hasattr(row, name))
