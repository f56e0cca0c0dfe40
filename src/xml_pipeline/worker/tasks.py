"""Ends tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

_AGAIN = 0.5


async def end_tasks(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel, and wait until all have ended.

    Again and again: a cancellation can be lost where it meets the end of what is awaited, as in `asyncio.wait_for`
    before Python 3.12.
    """
    running = [task for task in tasks if not task.done()]
    while running:
        for task in running:
            task.cancel()
        _, pending = await asyncio.wait(running, timeout=_AGAIN)
        running = list(pending)
