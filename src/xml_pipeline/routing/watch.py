"""What is asked of the whole organism, as rows: to stop, to take another configuration."""

from __future__ import annotations

import asyncio
from datetime import datetime

import structlog

from xml_pipeline.errors import InvalidInput
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.organism.load import parse_organism
from xml_pipeline.routing.checks import configured
from xml_pipeline.routing.current import Current
from xml_pipeline.routing.delivery import declare_again
from xml_pipeline.storage import configuration, organism_state
from xml_pipeline.storage.configuration import Configuration
from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)


class Watch:
    """Looks at the rows and does what they ask. `started_at` is by the database's clock."""

    def __init__(self, bus: Bus, db: Database, current: Current, started_at: datetime, stop: asyncio.Event) -> None:
        self._bus = bus
        self._db = db
        self._current = current
        self._started_at = started_at
        self._stop = stop
        self._refused = 0

    async def look(self) -> None:
        """Raises DatabaseUnavailable."""
        async with self._db.begin() as connection:
            state = await organism_state.read_state(connection)
            version = await configuration.latest_version(connection)
            known = max(self._current.configured.version, self._refused)
            latest = await configuration.latest(connection) if version > known else None
        if state.stops(self._started_at):
            self._stop.set()
        if latest is not None:
            await self._take(latest)

    async def _take(self, latest: Configuration) -> None:
        folder = self._current.configured.organism.folder
        try:
            organism = await asyncio.to_thread(parse_organism, latest.text, folder)
            self._current.configured = configured(organism, latest.version)
        except InvalidInput as error:
            self._refused = latest.version
            log.warning("configuration_refused", version=latest.version, code=error.code)
            return
        log.info("configuration_taken", version=latest.version, listeners=len(organism.listeners))
        await declare_again(self._bus, self._current.configured)
