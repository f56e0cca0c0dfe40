"""Whose turn it is to change the schema or its rights: one at a time in a database."""

from __future__ import annotations

import asyncio

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

# Any number that nothing else in the database locks.
_KEY = {"key": 0x786D_6C70}
_FOR_SESSION = text("select pg_try_advisory_lock(:key)")
_FOR_TRANSACTION = text("select pg_try_advisory_xact_lock(:key)")
_PAUSE = 0.2


async def turn_of_session(connection: AsyncConnection) -> None:
    """Wait until nobody else changes the schema; ours until the session ends. The connection is left idle."""
    while not await _got(connection, _FOR_SESSION):
        await connection.rollback()
        await asyncio.sleep(_PAUSE)
    await connection.commit()


async def turn_of_transaction(connection: AsyncConnection) -> None:
    """The same, until the transaction ends."""
    while not await _got(connection, _FOR_TRANSACTION):  # noqa: ASYNC110 - it is about other processes
        await asyncio.sleep(_PAUSE)


async def _got(connection: AsyncConnection, attempt: TextClause) -> bool:
    # Asked for again and again, since who waits inside a statement is waited for by an index that is made concurrently.
    return bool(await connection.scalar(attempt, _KEY))
