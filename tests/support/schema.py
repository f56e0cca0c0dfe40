"""Bringing a test database to the current schema."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import create_async_engine

from xml_pipeline.storage.tables import metadata


def migrate(url: str) -> None:
    """Make all tables in an empty database."""
    asyncio.run(_create_all(url.replace("postgresql://", "postgresql+asyncpg://", 1)))


async def _create_all(url: str) -> None:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
    finally:
        await engine.dispose()
