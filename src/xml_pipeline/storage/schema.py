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
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import DatabaseUnavailable, InvalidInput, Refused, SchemaOutdated
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.granting import grant_rights
from xml_pipeline.storage.migration_turn import turn_of_session
from xml_pipeline.storage.online import LONGEST_WAIT, PATIENT_WAIT

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# An autovacuum that is in the way is cancelled after this time, which is less than LONGEST_WAIT.
_CANCEL_AUTOVACUUM = text("set deadlock_timeout = '200ms'")
_INSUFFICIENT_PRIVILEGE = "42501"
# What PostgreSQL calls it when another sets the rights of the same table, or changes it, at the same time.
_CHANGED_MEANWHILE = "XX000"
_PAUSE = 1.0
# How often a lock is asked for, a statement is tried that takes too long under one, or is the victim of a deadlock.
_TRIES = {"55P03": 60, "57014": 3, "40P01": 10}
_GRANT_TRIES = 10
_PATIENT_EACH = 10
_GIVEN_UP = {
    "55P03": "somebody held a table of the database at {place} all the time: end long transactions, such as a pg_dump, "
    "or wait for them, and for an autovacuum that prevents wraparound; try again",
    "57014": "a statement that others wait for took too long at {place}: stop the services, try again",
    "40P01": "others locked what is changed in the other order, again and again, at {place}: try again",
}


def migrate(url: str, *, revision: str = "head") -> None:
    """Bring the database to this version's schema; safe to run twice, at the same time elsewhere, and when killed.

    For callers outside an event loop. An older `revision` takes the schema down to it. Raises DatabaseUnavailable,
    SchemaOutdated for a schema of a newer version, InvalidInput for a revision that is not known.
    """
    asyncio.run(migrate_database(url, revision=revision))


async def migrate_database(url: str, *, revision: str = "head", scripts: Path = MIGRATIONS) -> None:
    """As `migrate`, inside an event loop, with the migrations of the folder `scripts`.

    Each migration is a transaction of its own, or several: see `xml_pipeline.storage.online`.
    """
    if revision not in {"head", "base", *known_revisions(scripts)}:
        raise InvalidInput(f"there is no revision {revision}: there are {', '.join(sorted(known_revisions(scripts)))}")
    database = Database.connect(url, application_name="migrate", command_timeout=None)
    try:
        async with database.session() as connection:
            await turn_of_session(connection)
            await _move(connection, database.place, revision, scripts)
    finally:
        await database.close()


async def _move(connection: AsyncConnection, place: str, revision: str, scripts: Path) -> None:
    """What is done is kept when a lock is not to be had: the next try goes on there."""
    left = dict(_TRIES)
    cancels = await _may_cancel_autovacuum(connection)
    while True:
        number = _TRIES["55P03"] - left["55P03"] + 1
        await _wait_at_most(connection, LONGEST_WAIT if cancels or number % _PATIENT_EACH else PATIENT_WAIT)
        try:
            return await _move_once(connection, place, revision, scripts)
        except DBAPIError as error:
            state = _state(error)
            if state not in left:
                raise
            left[state] -= 1
            if not left[state]:
                raise DatabaseUnavailable(_GIVEN_UP[state].format(place=place)) from error
            await connection.rollback()
            log.warning("migration_tried_again", seconds=_PAUSE, sqlstate=state)
            await asyncio.sleep(_PAUSE)


async def _may_cancel_autovacuum(connection: AsyncConnection) -> bool:
    """For superusers, and users with `grant set on parameter deadlock_timeout`."""
    try:
        await connection.execute(_CANCEL_AUTOVACUUM)
    except DBAPIError as error:
        if _state(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        await connection.rollback()
        return False
    await connection.commit()
    return True


async def _wait_at_most(connection: AsyncConnection, wait: str) -> None:
    """Whoever waits for a table's lock has everybody else wait behind him: not for long, and then again."""
    await connection.execute(text(f"set lock_timeout = '{wait}'"))
    await connection.commit()


async def _move_once(connection: AsyncConnection, place: str, revision: str, scripts: Path) -> None:
    found = await connection.run_sync(found_revisions)
    await connection.commit()
    if not found <= known_revisions(scripts):
        raise SchemaOutdated(_what_to_do(place, found))
    await connection.run_sync(_run_migrations, revision, found, scripts)
    if await connection.run_sync(found_revisions) == {current_revision(scripts)}:
        await _grant(connection)
    await connection.commit()


async def _grant(connection: AsyncConnection) -> None:
    missing = await _granted(connection)
    if missing:
        log.warning("roles_missing", roles=missing, reason="who migrates may not make roles")


async def _granted(connection: AsyncConnection) -> list[str]:
    left = _GRANT_TRIES
    while True:
        try:
            return await connection.run_sync(grant_rights)
        except DBAPIError as error:
            left -= 1
            if not left or _state(error) != _CHANGED_MEANWHILE:
                raise
            await connection.rollback()
            log.warning("rights_tried_again", seconds=_PAUSE)
            await asyncio.sleep(_PAUSE)


def _state(error: DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


async def require_current_schema(database: Database) -> None:
    """Raises SchemaOutdated for a schema of another version, Refused where it is not shown, DatabaseUnavailable."""
    needed = await asyncio.to_thread(current_revision)
    try:
        async with database.begin() as connection:
            found = await connection.run_sync(found_revisions)
    except DBAPIError as error:
        if _state(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise Refused(
            f"the database at {database.place} shows this user nothing: take the user of this service, "
            "which 'organism database-setup' makes, or who owns the tables"
        ) from error
    if found != {needed}:
        raise SchemaOutdated(_what_to_do(database.place, found))


def current_revision(scripts: Path = MIGRATIONS) -> str | None:
    """The revision that this version needs."""
    return _scripts(scripts).get_current_head()


def _what_to_do(place: str, found: set[str]) -> str:
    if not found:
        return f"the database at {place} has no tables yet: run 'organism migrate'"
    if found <= known_revisions():
        return f"the schema of the database at {place} is old: run 'organism migrate'"
    return f"the schema of the database at {place} is newer than this program: run a newer version"


def _run_migrations(connection: Connection, revision: str, found: set[str], scripts: Path) -> None:
    config = _config(scripts)
    config.attributes["connection"] = connection
    if revision == "base" or revision in _older_than(found, scripts):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def _older_than(found: set[str], scripts: Path) -> set[str]:
    return {script.revision for one in found for script in _scripts(scripts).iterate_revisions(one, "base")} - found


def found_revisions(connection: Connection) -> set[str]:
    """The revisions that the database has: none before the first migration."""
    if not inspect(connection).has_table("alembic_version"):
        return set()
    return set(connection.execute(text("select version_num from alembic_version")).scalars())


def known_revisions(scripts: Path = MIGRATIONS) -> set[str]:
    """The revisions that this version knows."""
    return {script.revision for script in _scripts(scripts).walk_revisions()}


def _config(scripts: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts(scripts: Path) -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(scripts))
