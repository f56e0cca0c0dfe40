"""Looks at a database without changing anything: for whoever asks whether all is as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.database import Database
from xml_pipeline.storage.facts import DatabaseFacts, UserFacts
from xml_pipeline.storage.partitions import AHEAD, month_of, months, next_month, partition_of
from xml_pipeline.storage.rights import RIGHTS, group_of
from xml_pipeline.storage.rights_held import differing_rights
from xml_pipeline.storage.schema import current_revision, found_revisions, known_revisions

_INSUFFICIENT_PRIVILEGE = "42501"
_LETTERS = text("select count(*), min(created_at) from dead_letters where redriven_at is null")
_UNTAKEN = text(
    "select count(*), coalesce(extract(epoch from now() - min(created_at)), 0) from inbox where taken_at is null"
)
_UNPRICED = text("""
    select model, provider, cast(sum(unpriced) as bigint) from usage_rollups
    where grain = 'day' and unpriced > 0 and cast(start at time zone 'UTC' as date) > current_date - 7
    group by 1, 2 order by 3 desc limit 20
""")
_USERS = text("""
    select r.rolname, r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication,
        coalesce(array_agg(distinct g.rolname) filter (where g.rolname is not null), '{}')
    from pg_roles r left join pg_auth_members m on m.member = r.oid left join pg_roles g on g.oid = m.roleid
    where r.rolname = any(cast(:names as text[])) group by 1, 2
""")
_GROUPS = text("select rolname from pg_roles where rolname = any(cast(:names as text[]))")


async def look_at_database(db: Database, users: Mapping[str, str]) -> DatabaseFacts:
    """Raises DatabaseUnavailable. `users`: by the service the name of its user, who is told of if he is there."""
    async with db.begin() as connection:
        skew, error = await _skew(connection)
        found = await connection.run_sync(found_revisions)
        facts: dict[str, Any] = {
            "place": db.place,
            "version": str(await connection.scalar(text("show server_version"))),
            "needed": current_revision(),
            "found": frozenset(found),
            "known": found <= known_revisions(),
            "skew": skew,
            "skew_error": error,
        }
        if found == {current_revision()}:
            facts |= await _of_schema(connection, users)
    return DatabaseFacts(**facts)


async def _of_schema(connection: AsyncConnection, users: Mapping[str, str]) -> dict[str, Any]:
    groups = set((await connection.execute(_GROUPS, {"names": list(RIGHTS)})).scalars())
    letters = await _rows(connection, _LETTERS)
    untaken = await _rows(connection, _UNTAKEN)
    unpriced = await _rows(connection, _UNPRICED)
    return {
        "missing_months": await _missing_months(connection),
        "letters": None if letters is None else (letters[0][0], letters[0][1]),
        "untaken": None if untaken is None else (untaken[0][0], float(untaken[0][1])),
        "unpriced": None if unpriced is None else tuple((row[0], row[1], row[2]) for row in unpriced),
        "missing_groups": tuple(role for role in RIGHTS if role not in groups),
        "differing": tuple(await differing_rights(connection, {role: role for role in RIGHTS if role in groups})),
        "users": await _users(connection, {name: group_of(service) for service, name in users.items()}),
    }


async def _users(connection: AsyncConnection, groups: Mapping[str, str]) -> dict[str, UserFacts]:
    """By name, who is there. `groups`: by the user's name the group whose rights it is to have."""
    rows = (await connection.execute(_USERS, {"names": list(groups)})).all()
    differing = await differing_rights(connection, {row[0]: groups[row[0]] for row in rows})
    return {
        row[0]: UserFacts(row[1], tuple(row[2]), tuple(one for one in differing if one.role == row[0])) for row in rows
    }


async def _rows(connection: AsyncConnection, statement: TextClause) -> Sequence[Sequence[Any]] | None:
    """None where this user may not read it."""
    try:
        async with connection.begin_nested():
            return (await connection.execute(statement)).all()
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
            raise
        return None


async def _skew(connection: AsyncConnection) -> tuple[float, float]:
    """The best of three looks: the one that took the least time on its way."""
    looks = []
    for _ in range(3):
        before = datetime.now(UTC)
        there: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
        after = datetime.now(UTC)
        way = (after - before).total_seconds() / 2
        looks.append((way, (there - before).total_seconds() - way))
    way, skew = min(looks)
    return skew, way


async def _missing_months(connection: AsyncConnection) -> tuple[str, ...]:
    now: datetime = (await connection.execute(text("select clock_timestamp()"))).scalar_one()
    there, month, missing = await months(connection), month_of(now), []
    for _ in range(AHEAD + 1):
        if month not in there:
            missing.append(partition_of(month))
        month = next_month(month)
    return tuple(missing)
