"""Users of the database, one for each service that has a group role: made, given their password, put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import Refused
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.granting import grant_rights
from xml_pipeline.storage.migration_turn import turn_of_transaction
from xml_pipeline.storage.rights import REPORTS, group_of
from xml_pipeline.storage.scram import scram_verifier

log = structlog.get_logger(__name__)

_INSUFFICIENT_PRIVILEGE = "42501"
_EXISTS = text("select 1 from pg_roles where rolname = :name")
_ATTRIBUTES = text(
    "select rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls from pg_roles where rolname = :name"
)
_QUOTED = text("select quote_ident(:name)")
_LITERAL = text("select quote_literal(:word)")
_DATABASE = text("select quote_ident(current_database())")
_MAY = text("select has_database_privilege(cast(:who as text), current_database(), :privileges)")
# A user that runs away with a statement, or sits in a transaction, is stopped by the services' own settings.
_LOGIN = "login inherit"
# In the order of the attributes.
_WITHOUT = ("nosuperuser", "nocreatedb", "nocreaterole", "noreplication", "nobypassrls")


async def set_up_users(db: Database, passwords: Mapping[str, str], *, prefix: str = "", close: bool = False) -> None:
    """Make the user `<prefix><service>` of each service, or give it this password; all in one transaction.

    `close`: nobody may enter the database any more because all may; these users and the reports' readers may, whoever
    owns it, and whom he let in by name. Raises Refused where whoever does it may not, and DatabaseUnavailable.
    """
    try:
        async with db.begin() as connection:
            await turn_of_transaction(connection)
            missing = await connection.run_sync(grant_rights)
            if missing:
                raise _not_allowed(db.place)
            for service, password in passwords.items():
                await _make_user(connection, prefix + service, group_of(service), password)
            if close:
                await _close_to_others(connection, [prefix + service for service in passwords])
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise _not_allowed(db.place) from error


def _not_allowed(place: str) -> Refused:
    return Refused(
        f"the user of ORGANISM_DATABASE_URL may not do this at {place}: it takes one who owns the tables and "
        "may make roles (CREATEROLE), or a superuser"
    )


async def _make_user(connection: AsyncConnection, name: str, group: str, password: str) -> None:
    quoted = str(await connection.scalar(_QUOTED, {"name": name}))
    verifier = str(await connection.scalar(_LITERAL, {"word": scram_verifier(password)}))
    found = (await connection.execute(_ATTRIBUTES, {"name": name})).one_or_none()
    verb = "create" if found is None else "alter"
    await connection.exec_driver_sql(f"{verb} role {quoted} {_LOGIN} {_taken_away(found)} password {verifier}")
    await connection.exec_driver_sql(f"grant {group} to {quoted}")
    log.info("user_made" if verb == "create" else "user_changed", user=name, group=group)


def _taken_away(found: Sequence[bool] | None) -> str:
    """Who is no superuser may not even say `nosuperuser` of a user that is there: only what it has is taken away."""
    held = (True,) * len(_WITHOUT) if found is None else found
    return " ".join(word for word, has in zip(_WITHOUT, held, strict=True) if has)


async def _close_to_others(connection: AsyncConnection, users: list[str]) -> None:
    database = str(await connection.scalar(_DATABASE))
    await connection.exec_driver_sql(f"revoke connect, temporary on database {database} from public")
    named = [name for name in (*users, REPORTS) if await connection.scalar(_EXISTS, {"name": name})]
    for name in named:
        quoted = await connection.scalar(_QUOTED, {"name": name})
        await connection.exec_driver_sql(f"grant connect on database {database} to {quoted}")
    # Of what is not the caller's to give and take, PostgreSQL warns only.
    if await _may(connection, "public", "connect, temporary"):
        raise _not_closed(database)
    for name in named:
        if not await _may(connection, name, "connect"):
            raise _not_closed(database)


async def _may(connection: AsyncConnection, who: str, privileges: str) -> bool:
    """Whether someone has one of these rights on the database."""
    return bool(await connection.scalar(_MAY, {"who": who, "privileges": privileges}))


def _not_closed(database: str) -> Refused:
    return Refused(
        f"the user of ORGANISM_DATABASE_URL may not close it: that takes one who owns the database {database}, "
        "or a superuser; leave --close out, and all else is done"
    )
