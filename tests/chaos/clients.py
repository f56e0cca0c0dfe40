"""Clients of an organism, as a process of their own: open-loop load, every request in a history that is on disk.

    python -m tests.chaos.clients --history FILE --rate 10 --seed 1 --name RUN URL URL

SIGTERM ends the load: what is under way is brought to its end, then the process exits with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from uuid import UUID

import httpx
import uvloop

from tests.chaos.history import Entry, History, Told

# Of a hundred injects.
MIX = {"study": 58, "say": 24, "slow": 12, "poison": 6}
TARGETS = {"study": "planner", "say": "talker", "slow": "slow", "poison": "poison", "block": "blocker"}
# Of a hundred studies, so many are killed on their way; of a hundred requests, so many are sent once and never again.
KILLED = 3
SENT_ONCE = 15
# And so many, accepted, are sent once more with the same key, to whichever gateway.
SENT_AGAIN = 8

TRY_SECONDS = 8.0
REPEAT_SECONDS = 90.0
PAUSE_SECONDS = 0.5
# Few and close together: the last of a thread comes while those before it are handled, and nobody comes after it.
TALKS_AT_ONCE = 2
SAYS_PER_TALK = 3
# The first tries of clients whose connection was refused are told apart from those that may have arrived.
_NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(slots=True)
class Talks:
    """Threads that many requests go into at the same time."""

    chance: Random
    open: list[tuple[str, int]] = field(default_factory=list)

    def next(self) -> str:
        """The thread of the next request."""
        while len(self.open) < TALKS_AT_ONCE:
            self.open.append((str(UUID(int=self.chance.getrandbits(128), version=4)), SAYS_PER_TALK))
        thread, left = self.open.pop(self.chance.randrange(len(self.open)))
        if left > 1:
            self.open.append((thread, left - 1))
        return thread


class Clients:
    """Many clients over one history."""

    def __init__(self, urls: Sequence[str], history: History, chance: Random, name: str) -> None:
        self._urls = list(urls)
        self._history = history
        self._chance = chance
        self._name = name
        self._talks = Talks(chance)
        self._count = 0
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=50)
        self._http = httpx.AsyncClient(timeout=TRY_SECONDS, limits=limits)

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Begin `rate` requests a second, however long they take, until `stop` is set; then wait for all."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with self._http, asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self._request())
                late = begun + self._count / rate - loop.time()
                try:
                    async with asyncio.timeout(max(0.0, late)):
                        await stop.wait()
                except TimeoutError:
                    continue

    async def _request(self) -> None:
        self._count += 1
        what = self._chance.choices(list(MIX), list(MIX.values()))[0]
        topic = f"{self._name}-{self._count}-"
        thread = self._talks.next() if what == "say" else None
        key = f"{topic}{self._chance.getrandbits(64):x}"
        body: dict[str, object] = {"to": TARGETS[what], "payload": {"topic": topic}}
        if thread is not None:
            body["threadId"] = thread
        repeats = self._chance.randrange(100) >= SENT_ONCE
        again = self._chance.randrange(100) < SENT_AGAIN
        kill = what == "study" and self._chance.randrange(100) < KILLED
        entry = Entry(Told.INVOKE, what, topic, key, thread)
        answer = await self._until_told(entry, "/api/v1/inject", body, {"Idempotency-Key": key}, repeats)
        if again and answer is not None:
            await self._try(entry, "/api/v1/inject", body, {"Idempotency-Key": key})
        if kill and answer is not None:
            await self._kill(topic, str(answer["threadId"]))

    async def _kill(self, topic: str, thread: str) -> None:
        await asyncio.sleep(self._chance.random() * 0.5)  # a study takes about as long
        entry = Entry(Told.INVOKE, "kill", topic, f"kill-{topic}", thread)
        await self._until_told(entry, f"/api/v1/threads/{thread}/kill", {}, {}, repeats=True)

    async def _until_told(
        self, entry: Entry, path: str, body: Mapping[str, object], headers: Mapping[str, str], repeats: bool
    ) -> Mapping[str, object] | None:
        """Try at one gateway after the other; the answer, None where none came."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REPEAT_SECONDS
        while True:
            answer = await self._try(entry, path, body, headers)
            if answer is not None or not repeats or loop.time() > deadline:
                return answer
            await asyncio.sleep(PAUSE_SECONDS * (0.5 + self._chance.random()))

    async def _try(
        self, entry: Entry, path: str, body: Mapping[str, object], headers: Mapping[str, str]
    ) -> Mapping[str, object] | None:
        await self._note(entry, Told.INVOKE)
        try:
            response = await self._http.post(self._chance.choice(self._urls) + path, json=body, headers=headers)
        except _NEVER_ARRIVED:
            await self._note(entry, Told.FAIL)
            return None
        except httpx.TransportError:
            await self._note(entry, Told.UNKNOWN)
            return None
        if not response.is_success:
            # What a server could not do it may have done: its database had the last word.
            await self._note(entry, Told.UNKNOWN if response.is_server_error else Told.FAIL, response.status_code)
            return None
        answer: Mapping[str, object] = response.json()
        await self._note(entry, Told.OK, response.status_code, answer)
        return answer

    async def _note(
        self, entry: Entry, told: Told, status: int | None = None, answer: Mapping[str, object] | None = None
    ) -> None:
        given = answer or {}
        thread = str(given["threadId"]) if "threadId" in given else entry.thread
        message = str(given["messageId"]) if "messageId" in given else None
        written = Entry(told, entry.what, entry.topic, entry.key, thread, message, status)
        await asyncio.to_thread(self._history.write, written)


async def main(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with History(arguments.history) as history:
        clients = Clients(arguments.urls, history, Random(arguments.seed), arguments.name)
        await clients.run(arguments.rate, stop)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.clients")
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--name", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(_arguments()))
