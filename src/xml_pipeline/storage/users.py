"""Users of the database, one for each service that has a group role: made, given their password, put into it."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import Refused
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.granting import grant_rights
from xml_pipeline.storage.rights import RIGHTS, group_of
from xml_pipeline.storage.scram import scram_verifier

log = structlog.get_logger(__name__)

# Whoever migrates holds it, too: both change rights.
_MIGRATION_LOCK = 0x786D_6C70
_INSUFFICIENT_PRIVILEGE = "42501"
_EXISTS = text("select 1 from pg_roles where rolname = :name")
_QUOTED = text("select quote_ident(:name)")
_LITERAL = text("select quote_literal(:word)")
_DATABASE = text("select quote_ident(current_database())")
# A user that runs away with a statement, or sits in a transaction, is stopped by the services' own settings.
_LOGIN = "login nosuperuser nocreatedb nocreaterole noreplication inherit"


async def set_up_users(db: Database, passwords: Mapping[str, str], *, prefix: str = "", close: bool = False) -> None:
    """Make the user `<prefix><service>` of each service, or give it this password; all in one transaction.

    `close`: of the users of the server only these, the reports' readers and whoever owns the database may enter it.
    Raises Refused where whoever does it may not, and DatabaseUnavailable.
    """
    try:
        async with db.begin() as connection:
            await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            await _make_groups(connection)
            await connection.run_sync(grant_rights)
            for service, password in passwords.items():
                await _make_user(connection, prefix + service, group_of(service), password)
            if close:
                await _close_to_others(connection, [prefix + service for service in passwords])
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise Refused(
            f"the user of ORGANISM_DATABASE_URL may not do this at {db.place}: it takes one who owns the tables and "
            "may make roles (CREATEROLE), or a superuser"
        ) from error


async def _make_groups(connection: AsyncConnection) -> None:
    """Those that the migration could not make."""
    for role in RIGHTS:
        if not await connection.scalar(_EXISTS, {"name": role}):
            await connection.execute(text(f"create role {role} nologin"))


async def _make_user(connection: AsyncConnection, name: str, group: str, password: str) -> None:
    quoted = str(await connection.scalar(_QUOTED, {"name": name}))
    verifier = str(await connection.scalar(_LITERAL, {"word": scram_verifier(password)}))
    verb = "alter" if await connection.scalar(_EXISTS, {"name": name}) else "create"
    await connection.exec_driver_sql(f"{verb} role {quoted} {_LOGIN} password {verifier}")
    await connection.exec_driver_sql(f"grant {group} to {quoted}")
    log.info("user_made" if verb == "create" else "user_changed", user=name, group=group)


async def _close_to_others(connection: AsyncConnection, users: list[str]) -> None:
    database = await connection.scalar(_DATABASE)
    await connection.exec_driver_sql(f"revoke connect, temporary on database {database} from public")
    for name in (*users, "organism_reports"):
        if await connection.scalar(_EXISTS, {"name": name}):
            quoted = await connection.scalar(_QUOTED, {"name": name})
            await connection.exec_driver_sql(f"grant connect on database {database} to {quoted}")
