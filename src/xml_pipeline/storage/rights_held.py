"""The rights that groups and users really have, compared with those that they are to have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.facts import Differing, Right
from xml_pipeline.storage.rights import RIGHTS

_PRIVILEGES = ("select", "insert", "update", "delete", "truncate", "references", "trigger")
_BY_COLUMN = ("select", "insert", "update", "references")
# A privilege, and in brackets its columns.
_PART = re.compile(r"(\w+)(?: \(([^)]*)\))?")
_TABLES = text("""
    select c.relname from pg_class c
    where c.relnamespace = cast(current_schema() as regnamespace) and c.relkind in ('r', 'p')
""")
_HELD = text("""
    select t.name, p.privilege from unnest(cast(:tables as text[])) as t (name)
    cross join unnest(cast(:privileges as text[])) as p (privilege)
    where has_table_privilege(:role, cast(quote_ident(t.name) as regclass), p.privilege)
""")
_HELD_BY_COLUMN = text("""
    select t.name, p.privilege, a.attname from unnest(cast(:tables as text[])) as t (name)
    cross join unnest(cast(:privileges as text[])) as p (privilege)
    join pg_attribute a on a.attrelid = cast(quote_ident(t.name) as regclass) and a.attnum > 0 and not a.attisdropped
    where has_column_privilege(:role, a.attrelid, a.attnum, p.privilege)
      and not has_table_privilege(:role, a.attrelid, p.privilege)
""")


def wanted_rights(role: str) -> Iterator[Right]:
    """What a group is to have."""
    for table, rights in RIGHTS[role].items():
        for privilege, columns in _PART.findall(rights):
            if columns:
                yield from (Right(table, privilege, column.strip()) for column in columns.split(","))
            else:
                yield Right(table, privilege)


async def differing_rights(connection: AsyncConnection, roles: Mapping[str, str]) -> list[Differing]:
    """In the order of roles and rights. `roles`: by a role's name the group whose rights it is to have.

    What a role has as the owner of a table, by a group, or as one of PUBLIC counts, too.
    """
    tables = list((await connection.execute(_TABLES)).scalars())
    found: list[Differing] = []
    for role, group in roles.items():
        wanted, held = set(wanted_rights(group)), await _held(connection, role, tables)
        found += [Differing(role, right, missing=True) for right in sorted(wanted - held, key=str)]
        found += [Differing(role, right, missing=False) for right in sorted(held - wanted, key=str)]
    return found


async def _held(connection: AsyncConnection, role: str, tables: list[str]) -> set[Right]:
    asked = {"role": role, "tables": tables}
    whole = await connection.execute(_HELD, {**asked, "privileges": list(_PRIVILEGES)})
    by_column = await connection.execute(_HELD_BY_COLUMN, {**asked, "privileges": list(_BY_COLUMN)})
    return {Right(row[0], row[1]) for row in whole} | {Right(row[0], row[1], row[2]) for row in by_column}
