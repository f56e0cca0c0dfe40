"""Makes the groups and gives them their rights: after every migration, so that none forgets them.

It depends on nothing that was granted before, so it is also what gives a restored database its rights.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from xml_pipeline.storage.rights import FUNCTIONS, REPORTS, REPORTS_SCHEMA, RIGHTS

_ROLES = text("select rolname from pg_roles where rolname = any(cast(:names as text[]))")
_SCHEMA = text("select quote_ident(current_schema())")


def grant_rights(connection: Connection) -> list[str]:
    """Give each group exactly its rights in this database; the groups that are not there, and got none.

    For whoever owns the tables. What a group had before and does not need any more is taken away. Groups are made
    where whoever does it may make roles.
    """
    groups = (*RIGHTS, REPORTS)
    there = _roles(connection, groups)
    for role in groups:
        if role not in there:
            connection.execute(text(_make(role)))
    there = _roles(connection, groups)
    for statement in _all_statements(there, str(connection.execute(_SCHEMA).scalar_one())):
        connection.execute(text(statement))
    return [role for role in groups if role not in there]


def _roles(connection: Connection, names: tuple[str, ...]) -> set[str]:
    return set(connection.execute(_ROLES, {"names": list(names)}).scalars())


def _make(role: str) -> str:
    # Roles belong to the server: another database may be making it now, or nobody may here.
    return f"""
        do $$ begin
            create role {role} nologin;
        exception when duplicate_object or unique_violation or insufficient_privilege then null;
        end $$
    """


def _all_statements(roles: set[str], schema: str) -> Iterator[str]:
    for functions in FUNCTIONS.values():
        for function in functions:
            yield f"revoke all on function {schema}.{function} from public"
    for role in RIGHTS:
        if role in roles:
            yield from _statements(role, schema)
    if REPORTS in roles:
        yield f"grant usage on schema {REPORTS_SCHEMA} to {REPORTS}"
        yield f"grant select on all tables in schema {REPORTS_SCHEMA} to {REPORTS}"


def _statements(role: str, schema: str) -> Iterator[str]:
    yield f"revoke all on all tables in schema {schema} from {role}"
    yield f"revoke all on all functions in schema {schema} from {role}"
    yield f"grant usage on schema {schema} to {role}"
    for table, rights in RIGHTS[role].items():
        yield f"grant {rights} on {schema}.{table} to {role}"
    for function in FUNCTIONS.get(role, ()):
        yield f"grant execute on function {schema}.{function} to {role}"
