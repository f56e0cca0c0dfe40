"""What a service needs, watched: once a second, as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.health.health import BROKER, Health
from xml_pipeline.health.pulse import beat

log = structlog.get_logger(__name__)

INTERVAL = 1.0
# Seconds after which a database that has not answered counts as gone.
PATIENCE = 2.0
DATABASE = "database"


class Watch:
    """Keeps a service's health up to date: whether broker and database answer, and since when all is as it is."""

    def __init__(
        self,
        health: Health,
        connected: Callable[[], bool],
        ping: Callable[[], Awaitable[None]] | None = None,
        *,
        broker_needed: bool = True,
    ) -> None:
        """`ping` raises DatabaseUnavailable; None for a service without a database."""
        self._health = health
        self._ping = ping
        self._question: asyncio.Future[bool] | None = None
        self._database_answers = True
        health.condition(BROKER, connected, needed=broker_needed)
        if ping is not None:
            health.condition(DATABASE, lambda: self._database_answers)

    async def run(self) -> None:
        """Watch, until cancelled."""
        try:
            while True:
                beat()
                if self._ping is not None:
                    self._database_answers = await self._ask(self._ping)
                self._health.look()
                await asyncio.sleep(INTERVAL)
        finally:
            if self._question is not None:
                self._question.cancel()

    async def _ask(self, ping: Callable[[], Awaitable[None]]) -> bool:
        """Whether the database answers. One question at a time: none is given up for another."""
        question = self._question = self._question or asyncio.ensure_future(_answers(ping))
        done, _ = await asyncio.wait({question}, timeout=PATIENCE)
        if not done:
            return False
        self._question = None
        return question.result()


async def _answers(ping: Callable[[], Awaitable[None]]) -> bool:
    try:
        await ping()
    except DatabaseUnavailable as error:
        log.debug("database_does_not_answer", reason=str(error))
        return False
    return True
