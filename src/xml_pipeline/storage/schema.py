"""The database's schema: brought up to date on request, and checked by every service at its start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from xml_pipeline.errors import DatabaseUnavailable, Refused, SchemaOutdated
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.granting import grant_rights

log = structlog.get_logger(__name__)

_SCRIPTS = Path(__file__).parent / "migrations"
# Any number that nothing else in the database locks.
_MIGRATION_LOCK = 0x786D_6C70
# Whoever waits for a table's lock has everybody else wait behind him: not for long, and then again.
_NO_LONG_WAIT = text("set local lock_timeout = '1s'")
_LOCK_NOT_AVAILABLE = "55P03"
_INSUFFICIENT_PRIVILEGE = "42501"
_TRIES = 60
_PAUSE = 1.0


def migrate(url: str) -> None:
    """Bring the database to this version's schema; safe to run twice, and at the same time elsewhere.

    For callers outside an event loop. Raises DatabaseUnavailable, and SchemaOutdated for a schema of a newer version.
    """
    asyncio.run(migrate_database(url))


async def migrate_database(url: str, *, revision: str = "head") -> None:
    """As `migrate`, inside an event loop; an older `revision` takes the schema down to it."""
    database = Database.connect(url, application_name="migrate", command_timeout=None)
    try:
        for _ in range(_TRIES):
            try:
                return await _migrate_once(database, revision)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
                    raise
                log.warning("migration_waits_for_lock", seconds=_PAUSE)
                await asyncio.sleep(_PAUSE)
        raise DatabaseUnavailable(
            f"somebody held a table of the database at {database.place} all the time: end long transactions, try again"
        )
    finally:
        await database.close()


async def _migrate_once(database: Database, revision: str) -> None:
    async with database.begin() as connection:
        await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        await connection.execute(_NO_LONG_WAIT)
        found = await connection.run_sync(found_revisions)
        if not found <= known_revisions():
            raise SchemaOutdated(_what_to_do(database.place, found))
        await connection.run_sync(_move_to, revision)


async def require_current_schema(database: Database) -> None:
    """Raises SchemaOutdated for a schema of another version, Refused where it is not shown, DatabaseUnavailable."""
    needed = await asyncio.to_thread(current_revision)
    try:
        async with database.begin() as connection:
            found = await connection.run_sync(found_revisions)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise Refused(
            f"the database at {database.place} shows this user nothing: take the user of this service, "
            "which 'organism database-setup' makes, or who owns the tables"
        ) from error
    if found != {needed}:
        raise SchemaOutdated(_what_to_do(database.place, found))


def current_revision() -> str | None:
    """The revision that this version needs."""
    return _scripts().get_current_head()


def _what_to_do(place: str, found: set[str]) -> str:
    if not found:
        return f"the database at {place} has no tables yet: run 'organism migrate'"
    if found <= known_revisions():
        return f"the schema of the database at {place} is old: run 'organism migrate'"
    return f"the schema of the database at {place} is newer than this program: run a newer version"


def _move_to(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    if revision == "head" or not found_revisions(connection):
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)
    if found_revisions(connection) == {current_revision()}:
        missing = grant_rights(connection)
        if missing:
            log.warning("roles_missing", roles=missing, reason="who migrates may not make roles")


def found_revisions(connection: Connection) -> set[str]:
    """The revisions that the database has: none before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return set()
    return set(connection.execute(text("select version_num from alembic_version")).scalars())


def known_revisions() -> set[str]:
    """The revisions that this version knows."""
    return {script.revision for script in _scripts().walk_revisions()}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())
