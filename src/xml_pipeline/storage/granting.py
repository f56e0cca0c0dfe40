"""Gives the groups their rights: after every migration, so that none forgets them."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from xml_pipeline.storage.rights import FUNCTIONS, RIGHTS

_ROLES = text("select rolname from pg_roles where rolname = any(cast(:names as text[]))")
_SCHEMA = text("select quote_ident(current_schema())")


def grant_rights(connection: Connection) -> list[str]:
    """Give each group exactly its rights in this database; the groups that are not there, and got none.

    For whoever owns the tables. What a group had before and does not need any more is taken away.
    """
    there = set(connection.execute(_ROLES, {"names": list(RIGHTS)}).scalars())
    schema = str(connection.execute(_SCHEMA).scalar_one())
    for role in RIGHTS:
        if role in there:
            for statement in _statements(role, schema):
                connection.execute(text(statement))
    return [role for role in RIGHTS if role not in there]


def _statements(role: str, schema: str) -> Iterator[str]:
    yield f"revoke all on all tables in schema {schema} from {role}"
    yield f"revoke all on all functions in schema {schema} from {role}"
    yield f"grant usage on schema {schema} to {role}"
    for table, rights in RIGHTS[role].items():
        yield f"grant {rights} on {schema}.{table} to {role}"
    for function in FUNCTIONS.get(role, ()):
        yield f"grant execute on function {schema}.{function} to {role}"
