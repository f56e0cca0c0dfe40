"""A RabbitMQ node of a test's own, broken from within the event loop."""

from __future__ import annotations

import asyncio

from tests.support.broker import Controllable


class RabbitOutage:
    """Stops, kills, starts and empties a node; its processes are started by the thread of the test, and end with it."""

    def __init__(self, node: Controllable) -> None:
        self.node = node

    async def stop(self) -> None:
        await asyncio.to_thread(self.node.kill)

    async def start(self) -> None:
        self.node.start()

    async def wipe(self) -> None:
        await asyncio.to_thread(self.node.wipe)
