"""A client that injects at a steady rate, whatever happens, and knows what was accepted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True, slots=True)
class Accepted:
    """One inject that a gateway has accepted."""

    key: str
    body: Mapping[str, Any]
    thread: str
    message: str
    at: float  # time.time() when the answer was there


@dataclass(slots=True)
class SteadyLoad:
    """Injects to `target`, each with its own key; what gets no answer, or a 5xx, is sent again until the end."""

    url: str
    target: str
    headers: Mapping[str, str]
    accepted: list[Accepted] = field(default_factory=list)
    slowest: float = 0.0
    _sent: int = 0

    async def run(self, rate: float) -> None:
        """Inject `rate` times a second until cancelled; each waits for the answers of none before it."""
        api = httpx.AsyncClient(base_url=f"{self.url}/api/v1", headers=self.headers, timeout=20)
        async with api, asyncio.TaskGroup() as group:
            while True:
                self._sent += 1
                group.create_task(self.inject(api, f"load-{self._sent}", {"text": f"load {self._sent}"}))
                await asyncio.sleep(1 / rate)

    async def inject(self, api: httpx.AsyncClient, key: str, payload: Mapping[str, Any]) -> None:
        """One inject, until it is accepted."""
        body, began = {"to": self.target, "payload": payload}, time.monotonic()
        while True:
            with suppress(httpx.TransportError):
                answer = await api.post("/inject", json=body, headers={"Idempotency-Key": key})
                if answer.is_success:
                    break
                assert answer.is_server_error, answer.text
            await asyncio.sleep(0.1)
        self.slowest = max(self.slowest, time.monotonic() - began)
        told = answer.json()
        self.accepted.append(Accepted(key, body, told["threadId"], told["messageId"], time.time()))


@asynccontextmanager
async def steady_load(
    url: str, target: str, *, rate: float, headers: Mapping[str, str] | None = None
) -> AsyncIterator[SteadyLoad]:
    """The load while the block runs."""
    load = SteadyLoad(url, target, headers or {})
    running = asyncio.create_task(load.run(rate))
    try:
        yield load
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
