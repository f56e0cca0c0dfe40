"""Whose turn it is to change the schema or its rights: one at a time in a database."""

from __future__ import annotations

import asyncio
from itertools import count

import structlog
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

log = structlog.get_logger(__name__)

# Any number that nothing else in the database locks.
_KEY = {"key": 0x786D_6C70}
_FOR_SESSION = text("select pg_try_advisory_lock(:key)")
_FOR_TRANSACTION = text("select pg_try_advisory_xact_lock(:key)")
_HOLDERS = text("""
    select a.pid, a.application_name from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and l.classid = 0 and l.objid = cast(:key as oid)
        and a.datname = current_database()
""")
_PAUSE = 0.2
_MISSES_A_MINUTE = 300


async def turn_of_session(connection: AsyncConnection) -> None:
    """Wait until nobody else changes the schema; ours until the session ends. The connection is left idle."""
    for misses in count():
        if await _got(connection, _FOR_SESSION, misses):
            break
        await connection.rollback()
        await asyncio.sleep(_PAUSE)
    await connection.commit()


async def turn_of_transaction(connection: AsyncConnection) -> None:
    """The same, until the transaction ends."""
    for misses in count():
        if await _got(connection, _FOR_TRANSACTION, misses):
            break
        await asyncio.sleep(_PAUSE)


async def _got(connection: AsyncConnection, attempt: TextClause, misses: int) -> bool:
    # Asked for again and again, since who waits inside a statement is waited for by an index that is made concurrently.
    if await connection.scalar(attempt, _KEY):
        return True
    if misses % _MISSES_A_MINUTE == 0:
        for pid, application_name in await connection.execute(_HOLDERS, _KEY):
            log.warning("waits_for_another_migration", pid=pid, application_name=application_name)
    return False
