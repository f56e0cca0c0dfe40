"""The pulse of a loop: when it last turned, and whether it rests since it has nothing to do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

T = TypeVar("T")
Clock = Callable[[], float]


class Beat(StrEnum):
    """What a loop does. Only one that is `WORKING` can be late; one that `ENDED` should have gone on."""

    WORKING = "working"
    RESTING = "resting"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Pulse:
    """One loop. `limit`: seconds that one step of it may take; `since`: when it last turned, by `clock`."""

    name: str
    limit: float
    clock: Clock
    beat: Beat = Beat.WORKING
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.since = self.clock()

    def note(self, beat: Beat) -> None:
        """The loop has turned."""
        self.beat = beat
        self.since = self.clock()

    def is_late(self, now: float) -> bool:
        """Whether it hangs in a step."""
        return self.beat is Beat.WORKING and now - self.since > self.limit

    def is_alive(self, now: float) -> bool:
        """Whether it makes progress, or rests."""
        return self.beat is not Beat.ENDED and not self.is_late(now)

    @contextmanager
    def carried(self) -> Iterator[None]:
        """In here, and in all tasks that begin here, `beat` and `rest` mean this pulse."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Pulse | None] = ContextVar("pulse", default=None)


def beat() -> None:
    """The loop that runs here has turned; a retry deep inside one of its steps counts, too."""
    pulse = _current.get()
    if pulse is not None:
        pulse.note(Beat.WORKING)


async def rest(something: Awaitable[T]) -> T:
    """Wait for what may take for ever: work that does not come, a part that is gone."""
    pulse = _current.get()
    if pulse is None:
        return await something
    pulse.note(Beat.RESTING)
    try:
        return await something
    finally:
        pulse.note(Beat.WORKING)
