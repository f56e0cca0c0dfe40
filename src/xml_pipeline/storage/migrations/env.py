"""What alembic runs. `organism migrate` hands in its connection; the alembic command makes one of its own."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection

import xml_pipeline.storage.ledger_tables
import xml_pipeline.storage.tables  # noqa: F401 - both describe tables
from xml_pipeline.storage.columns import metadata
from xml_pipeline.storage.database import Database


def _run(connection: Connection) -> None:
    # What one migration locks is free before the next begins, and a step may end the transaction in between.
    context.configure(connection=connection, target_metadata=metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _run_alone() -> None:
    database = Database.connect(os.environ["ORGANISM_DATABASE_URL"], command_timeout=None)
    try:
        async with database.session() as connection:
            await connection.run_sync(_run)
    finally:
        await database.close()


if context.is_offline_mode():
    context.configure(url="postgresql+asyncpg://", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
elif "connection" in context.config.attributes:
    _run(context.config.attributes["connection"])
else:
    asyncio.run(_run_alone())
