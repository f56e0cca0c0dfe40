"""The steps of each service's stop, one after the other, end before `docker stop` kills."""

from __future__ import annotations

import asyncio

import pytest

from xml_pipeline import stopping

GATEWAY = (stopping.REQUESTS, stopping.PUBLISHING, stopping.CONSUMERS)
ROUTER = (stopping.ROUTING, stopping.CONSUMERS)
USAGE = (stopping.BOOKING, stopping.LAST_BATCH, stopping.CONSUMERS)
# A worker's hints and its other consumers are closed one after the other.
WORKER = (stopping.HANDLERS, stopping.CHILDREN, stopping.LAST_TURNS, 2 * stopping.CONSUMERS)
SESSIONS = (2 * stopping.GOODBYE, stopping.DATABASE)


@pytest.mark.parametrize("steps", [(*GATEWAY, *SESSIONS), (*ROUTER, *SESSIONS), (*USAGE, *SESSIONS), WORKER])
def test_all_steps_together_take_less_than_the_whole(steps: tuple[float, ...]) -> None:
    assert sum(steps) + stopping.BROKER + stopping.TRACES < stopping.WHOLE


async def test_what_hangs_in_its_goodbye_is_cut() -> None:
    cut = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.shield(cut.wait())

    async def lose_the_cancellation() -> None:
        while not cut.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    tasks = [asyncio.create_task(one()) for one in (hang, lose_the_cancellation)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await stopping.cancel_all(tasks, cut.set)
    assert all(task.done() for task in tasks)
