"""What the usage service does for its tables as time goes on."""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy.exc import DBAPIError

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.health.pulse import rest
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.partitions import make_months

log = structlog.get_logger(__name__)

_EVERY = 3600.0
_AGAIN = 30.0


async def keep_months(db: Database) -> None:
    """Make months of usage ahead, until cancelled. Without one, events are kept apart until it is made."""
    while True:
        await rest(asyncio.sleep(_EVERY if await _made(db) else _AGAIN))


async def _made(db: Database) -> bool:
    try:
        made = await make_months(db)
    except (DatabaseUnavailable, DBAPIError) as error:
        log.warning("months_put_off", error=str(error).partition("\n")[0])
        return False
    if made:
        log.info("months_made", partitions=made)
    return True
