"""What the usage service does now and then: it makes the months of usage ahead."""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy.exc import DBAPIError

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.health.pulse import beat, rest
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.organism_state import database_time
from xml_pipeline.storage.partitions import Month, ensure_months

log = structlog.get_logger(__name__)

_INTERVAL = 3600.0
# Without its month usage is booked all the same, beside the months; but the fewer events have to move in the better.
_AFTER_FAILURE = 60.0


async def keep_up(db: Database, *, interval: float = _INTERVAL, after_failure: float = _AFTER_FAILURE) -> None:
    """Make months ahead, now and every `interval` seconds, until cancelled. What fails is logged, and tried again."""
    while True:
        beat()
        await rest(asyncio.sleep(interval if await _made_months(db) else after_failure))


async def make_months(db: Database) -> list[Month]:
    """Make the months that are missing, by the database's clock. Raises DatabaseUnavailable and DBAPIError."""
    async with db.begin() as connection:
        return await ensure_months(connection, await database_time(connection))


async def _made_months(db: Database) -> bool:
    try:
        made = await make_months(db)
    except (DatabaseUnavailable, DBAPIError) as error:
        log.warning("months_put_off", error=str(error).partition("\n")[0])
        return False
    if made:
        log.info("months_made", months=[str(month) for month in made])
    return True
