"""A query whose cost grows with the history, asked no more often than it can be answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from xml_pipeline.errors import Unavailable

T = TypeVar("T")

_REST = 10.0
# What takes less, in seconds, is asked anew each time: whoever has just changed something sees it.
_CHEAP = 0.01


class Paced(Generic[T]):
    """An answer that took long is good for ten times as long as that; those who ask at once share one in any case.

    They share a failure too: behind a database that does not answer nobody waits for more than one turn.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._answer: tuple[T, float] | None = None
        self._failure: tuple[Unavailable, float] | None = None

    async def get(self) -> T:
        """The answer, now or from shortly before. Raises Unavailable."""
        asked = time.monotonic()
        async with self._lock:
            if self._answer is not None and asked < self._answer[1]:
                return self._answer[0]
            if self._failure is not None and asked < self._failure[1]:
                raise self._failure[0]
            return await self._anew()

    async def _anew(self) -> T:
        began = time.monotonic()
        try:
            answer = await self._ask()
        except Unavailable as error:
            self._failure = (error, time.monotonic())
            raise
        now = time.monotonic()
        took = now - began
        self._answer = (answer, now + (_REST * took if took > _CHEAP else 0.0))
        return answer
