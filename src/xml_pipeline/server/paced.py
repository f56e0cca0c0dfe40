"""A query whose cost grows with the history, asked no more often than it can be answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_REST = 10.0


class Paced(Generic[T]):
    """An answer is good for ten times as long as it took: fresh while it is cheap, bounded load when it is not."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._answer: tuple[T, float] | None = None

    async def get(self) -> T:
        """The answer, now or from shortly before."""
        asked = time.monotonic()
        async with self._lock:
            if self._answer is not None and asked < self._answer[1]:
                return self._answer[0]
            began = time.monotonic()
            answer = await self._ask()
            now = time.monotonic()
            self._answer = (answer, now + _REST * (now - began))
            return answer
