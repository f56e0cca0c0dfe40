"""Makes the groups and gives them their rights: after every migration, so that none forgets them.

It depends on nothing that was granted before, so it is also what gives a restored database its rights.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, TextClause, text

from xml_pipeline.storage.rights import FUNCTIONS, REPORTS, REPORTS_SCHEMA, RIGHTS

_ROLES = text("select rolname from pg_roles where rolname = any(cast(:names as text[]))")
_SCHEMA = text("select quote_ident(current_schema())")
# Not `all tables in schema`: in it are also those of extensions and of other owners, whose rights are not ours to take.
_OUR_TABLES = text("""
    select cast(cast(oid as regclass) as text) from pg_class
    where relnamespace = to_regnamespace(:schema) and relkind in ('r', 'p', 'v', 'm', 'S')
        and pg_has_role(relowner, 'usage')
""")
_OUR_FUNCTIONS = text("""
    select cast(cast(oid as regprocedure) as text) from pg_proc
    where pronamespace = to_regnamespace(:schema) and prokind = 'f' and pg_has_role(proowner, 'usage')
""")


def grant_rights(connection: Connection) -> list[str]:
    """Give each group exactly its rights in this database; the groups that are not there, and got none.

    For whoever owns the tables. What a group had before on what is his, and does not need any more, is taken away;
    what others have in the schema is left alone. Groups are made where whoever does it may make roles.
    """
    groups = (*RIGHTS, REPORTS)
    there = _roles(connection, groups)
    for role in groups:
        if role not in there:
            connection.execute(text(_make(role)))
    there = _roles(connection, groups)
    schema = str(connection.execute(_SCHEMA).scalar_one())
    for statement in (*_revocations(connection, there, schema), *_grants(connection, there, schema)):
        connection.exec_driver_sql(statement)
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


def _revocations(connection: Connection, roles: set[str], schema: str) -> Iterator[str]:
    for functions in FUNCTIONS.values():
        for function in functions:
            yield f"revoke all on function {schema}.{function} from public"
    groups = ", ".join(role for role in RIGHTS if role in roles)
    for kind, query in (("table", _OUR_TABLES), ("function", _OUR_FUNCTIONS)):
        if groups and (ours := _ours(connection, query, schema)):
            yield f"revoke all on {kind} {ours} from {groups}"


def _grants(connection: Connection, roles: set[str], schema: str) -> Iterator[str]:
    for role in RIGHTS:
        if role in roles:
            yield from _statements(role, schema)
    if REPORTS in roles and (views := _ours(connection, _OUR_TABLES, REPORTS_SCHEMA)):
        yield f"grant usage on schema {REPORTS_SCHEMA} to {REPORTS}"
        yield f"grant select on {views} to {REPORTS}"


def _ours(connection: Connection, query: TextClause, schema: str) -> str:
    return ", ".join(connection.execute(query, {"schema": schema}).scalars())


def _statements(role: str, schema: str) -> Iterator[str]:
    yield f"grant usage on schema {schema} to {role}"
    for table, rights in RIGHTS[role].items():
        yield f"grant {rights} on {schema}.{table} to {role}"
    for function in FUNCTIONS.get(role, ()):
        yield f"grant execute on function {schema}.{function} to {role}"
