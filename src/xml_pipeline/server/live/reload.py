"""A new version of the configuration: read from the file here, put in force everywhere by a row."""

from __future__ import annotations

import asyncio

import structlog

from xml_pipeline.errors import BrokerUnavailable, InvalidOrganism
from xml_pipeline.message_bus.messages import ControlHint
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.organism.load import load_organism, parse_organism
from xml_pipeline.organism.model import Organism
from xml_pipeline.server.access.visitor import current_actor
from xml_pipeline.server.live.configured import Configured, Current, difference
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.models import ReloadAnswer
from xml_pipeline.storage import audit, configuration
from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

_FILE = "organism.yaml"


class Reloader:
    """Puts new versions in force, and follows those that others have put."""

    def __init__(self, bus: Bus, db: Database, current: Current, outbox: Outbox) -> None:
        self._bus = bus
        self._db = db
        self._current = current
        self._outbox = outbox
        organism = current.organism
        self._file = organism.file or organism.folder / _FILE
        self._one_at_a_time = asyncio.Lock()

    async def reload(self) -> ReloadAnswer:
        """Read the file again; with a fault in it nothing changes."""
        async with self._one_at_a_time:
            try:
                organism = await asyncio.to_thread(load_organism, self._file)
            except (InvalidOrganism, OSError) as error:
                return ReloadAnswer(success=False, error=str(error))
            before = self._current.organism
            if organism.name != before.name:
                return ReloadAnswer(success=False, error=f"the name cannot change while {before.name} runs")
            return await self._put_in_force(before, organism)

    async def _put_in_force(self, before: Organism, organism: Organism) -> ReloadAnswer:
        changes = difference(before, organism)
        await self._declare(organism)
        async with self._db.begin() as connection:
            published = await configuration.publish(connection, organism, force=True)
            detail = {"version": published.version}
            await audit.record(connection, actor=current_actor(), action="reload", subject="organism", detail=detail)
        self._current.value = await asyncio.to_thread(Configured.of, organism, published.version)
        self._outbox.hint(ControlHint(kind="reload", config_version=published.version, text=organism.text))
        log.info("configuration.reloaded", version=published.version)
        return ReloadAnswer(added=list(changes.added), removed=list(changes.removed), updated=list(changes.updated))

    async def _declare(self, organism: Organism) -> None:
        try:
            await self._bus.declare(organism_topology(organism.name, organism.listeners))
        except BrokerUnavailable:
            # The routers declare it when they follow the new version.
            log.warning("configuration.not_declared", organism=organism.name)

    async def follow(self) -> None:
        """Take the version in force, if another gateway has put a newer one; raises DatabaseUnavailable."""
        async with self._db.begin() as connection:
            if await configuration.latest_version(connection) <= self._current.value.version:
                return
            latest = await configuration.latest(connection)
        if latest is None:
            return
        async with self._one_at_a_time:
            if latest.version > self._current.value.version:
                await self._take(latest)

    async def _take(self, latest: configuration.Configuration) -> None:
        before = self._current.value
        try:
            organism = await asyncio.to_thread(parse_organism, latest.text, before.organism.folder)
        except InvalidOrganism as error:
            log.warning("configuration.refused", version=latest.version, error=str(error))
            organism = before.organism
        self._current.value = await asyncio.to_thread(Configured.of, organism, latest.version)
        log.info("configuration.followed", version=latest.version)
