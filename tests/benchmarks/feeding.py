"""Keeps work waiting, so that no worker of a benchmark is idle for want of it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import asyncpg
import httpx

# An inject becomes one request and PASSES more, and as many answers.
PASSES = 5
TURNS_EACH = 2 * PASSES + 1
_QUESTION = {"to": "thinker", "payload": {"left": PASSES, "text": "word " * 160}}
_READY = "select count(*) from messages where to_id = 'thinker' and state = 'ready' and parked_for is null"
_LOOK = 0.1
_MOST_AT_ONCE = 50


class Feeder:
    """Injects whenever fewer than `wanted` messages wait for a worker. `least`: the fewest that it has seen."""

    def __init__(self, url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=30.0)
        self._connection = connection
        self._task: asyncio.Task[None] | None = None
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

    async def filled(self, limit: float = 60.0) -> None:
        """Until as much waits as is wanted."""
        self.least = 0
        async with asyncio.timeout(limit):
            while self.least < self.wanted // 2:
                self.require_running()
                self.least = self.wanted
                await asyncio.sleep(3 * _LOOK)

    async def _feed(self) -> None:
        while True:
            ready = await self._connection.fetchval(_READY)
            self.least = min(self.least, ready)
            if ready < self.wanted:
                await self._inject(min(self.wanted - ready, _MOST_AT_ONCE))
            else:
                await asyncio.sleep(_LOOK)

    async def _inject(self, count: int) -> None:
        for answer in await asyncio.gather(*(self._client.post("/inject", json=_QUESTION) for _ in range(count))):
            answer.raise_for_status()
