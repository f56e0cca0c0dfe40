"""Messages that the live feed lost: found in PostgreSQL a little later, so that onlookers see every message once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.server.feed import Hub
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.live.feed import LiveFeed
from xml_pipeline.server.live.records import message_info
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.messages import get_message
from xml_pipeline.storage.tables import messages

# The feed has this long, in seconds, to tell of a message by itself.
_PATIENCE = 2.0
# A transaction that began earlier may commit later: so long is looked back.
_LOOK_BACK = 6.0
_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class _Row:
    id: UUID
    seq: int
    age: float


class CatchUp:
    """Compares what was told with what is stored, as long as anybody looks on."""

    def __init__(self, db: Database, current: Current, feed: LiveFeed, hub: Hub) -> None:
        self._db = db
        self._current = current
        self._feed = feed
        self._hub = hub
        self._floor: int | None = None

    async def step(self) -> None:
        """Tell what is missing; raises DatabaseUnavailable."""
        if not self._hub.watched:
            self._floor = None
            return
        async with self._db.begin() as connection:
            if self._floor is None:
                self._floor = await connection.scalar(select(func.coalesce(func.max(messages.c.seq), 0)))
                return
            rows = await _rows_after(connection, self._floor)
            for row in rows:
                if row.age > _PATIENCE and not self._feed.has_told(str(row.id)):
                    await self._tell(connection, row.id)
        self._floor = max((row.seq for row in rows if row.age > _LOOK_BACK), default=self._floor)

    async def _tell(self, connection: AsyncConnection, message_id: UUID) -> None:
        record = await get_message(connection, message_id)
        # The feed may have brought it meanwhile.
        if record is not None and not self._feed.has_told(str(message_id)):
            self._feed.tell(message_info(record, self._current.value))


async def _rows_after(connection: AsyncConnection, seq: int) -> Sequence[_Row]:
    age = func.extract("epoch", func.clock_timestamp() - messages.c.created_at)
    statement = select(messages.c.id, messages.c.seq, age).where(messages.c.seq > seq).order_by(messages.c.seq)
    return [_Row(id_, place, float(old)) for id_, place, old in await connection.execute(statement.limit(_LIMIT))]
