"""Keeps work waiting, so that no worker of a benchmark is idle for want of it."""

from __future__ import annotations

import asyncio
import itertools
from types import TracebackType
from typing import Self

import asyncpg
import httpx

# An inject is one turn and two more for each further question: from 1 to 41, so that threads do not end all at once.
PASSES = tuple(range(21))
_TEXT = "word " * 160
_READY = "select count(*) from messages where to_id = 'thinker' and state = 'ready' and parked_for is null"
_LOOK = 0.1
_MOST_AT_ONCE = 100


class Feeder:
    """Injects whenever fewer than `wanted` messages wait for a worker. `least`: the fewest that it has seen."""

    def __init__(self, url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30.0)
        self._connection = connection
        self._passes = itertools.cycle(PASSES)
        self._task: asyncio.Task[None] | None = None
        self._ready = 0
        self.wanted = 0
        self.least = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._feed())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def require_running(self) -> None:
        """Raises what it died of."""
        if self._task is not None and self._task.done():
            self._task.result()

    async def want(self, ready: int, limit: float = 60.0) -> None:
        """From now on so many are to wait; returns when they do."""
        self.wanted = ready
        async with asyncio.timeout(limit):
            while self._ready < self.wanted:
                self.require_running()
                await asyncio.sleep(_LOOK)

    async def _feed(self) -> None:
        while True:
            self._ready = await self._connection.fetchval(_READY)
            self.least = min(self.least, self._ready)
            if self._ready < self.wanted:
                await self._inject(min(self.wanted - self._ready, _MOST_AT_ONCE))
            else:
                await asyncio.sleep(_LOOK)

    async def _inject(self, count: int) -> None:
        questions = [{"left": next(self._passes), "text": _TEXT} for _ in range(count)]
        injects = ({"to": "thinker", "payload": question} for question in questions)
        for answer in await asyncio.gather(*(self._client.post("/inject", json=inject) for inject in injects)):
            answer.raise_for_status()
