"""Steps of migrations that run while services work: none has them wait for more than 1.2 seconds.

A step that takes a lock which reads or writes wait for is one statement in a transaction of its own. The server gives
it up when it has not got its lock after LONGEST_WAIT, or has not ended after LONGEST_WORK; where an autovacuum can be
got out of the way by patience alone, each tenth try has PATIENT_WAIT and PATIENT_WORK. What takes longer (an index,
the check of rows that are there, new values) is done under locks that nobody waits for, or in many small transactions.

Each step can be repeated: a migration that was given up or killed begins again at its first step, and what is done
already is passed over. So a migration has such steps, or makes new things in its one transaction, and never both.
For `upgrade` and `downgrade` alone. Names and SQL are the migration's own, nobody's input.
"""

# ruff: noqa: S608 - see above

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection

# Of a second that others may wait; the rest is for the commit.
LONGEST_WAIT = "400ms"
LONGEST_WORK = "800ms"
# PostgreSQL cancels an autovacuum for whoever has waited for it for `deadlock_timeout`: a second, unless set.
PATIENT_WAIT = "1100ms"
PATIENT_WORK = "1200ms"
BATCH = 1000
_NAME_LIMIT = 63

_IS_PARTITIONED = "select relkind = 'p' from pg_class where oid = to_regclass(:table)"
_IS_BROKEN = "select not indisvalid from pg_index where indexrelid = to_regclass(:name)"
_IS_OF_PARTITIONS = "select relkind = 'I' from pg_class where oid = to_regclass(:name)"
_WITHOUT_INDEX = """
    select p.relname from pg_inherits t join pg_class p on p.oid = t.inhrelid
    where t.inhparent = to_regclass(:table) and not exists (
        select from pg_index i join pg_inherits a on a.inhrelid = i.indexrelid
        where i.indrelid = p.oid and a.inhparent = to_regclass(:name)
    ) order by 1
"""
_HAS_CONSTRAINT = "select true from pg_constraint where conrelid = to_regclass(:table) and conname = :name"


def briefly(statement: str) -> None:
    """Run one statement that others may have to wait for."""
    with _alone() as connection:
        patient = _shown(connection, "lock_timeout") == PATIENT_WAIT
        _set(connection, "statement_timeout", PATIENT_WORK if patient else LONGEST_WORK)
        try:
            connection.execute(sa.text(statement))
        finally:
            _set(connection, "statement_timeout", "0")


def add_column(table: str, definition: str) -> None:
    """Add a column, such as `priority smallint not null default 0`. The default is a constant: no row is rewritten."""
    briefly(f"alter table {table} add column if not exists {definition}")


def set_default(table: str, column: str, default: str) -> None:
    """What new rows get: before a backfill, so that it comes to an end."""
    briefly(f"alter table {table} alter column {column} set default {default}")


def drop_column(table: str, column: str) -> None:
    """Drop a column, which no service of this version or the one before it uses."""
    briefly(f"alter table {table} drop column if exists {column}")


def create_index(name: str, table: str, on: str, *, where: str | None = None, unique: bool = False) -> None:
    """Make an index on `on`, such as `agent_id, granted_at desc`, while others write; on a partitioned table, too."""
    what = f"({on})" + (f" where {where}" if where else "")
    kind = "unique index" if unique else "index"
    if not _scalar(_IS_PARTITIONED, table=table):
        _create_concurrently(name, table, what, kind)
        return
    briefly(f"create {kind} if not exists {name} on only {table} {what}")
    # A month may be made in between.
    while missing := _scalars(_WITHOUT_INDEX, table=table, name=name):
        for partition in missing:
            of_partition = (name + partition.removeprefix(table))[:_NAME_LIMIT]
            _create_concurrently(of_partition, partition, what, kind)
            briefly(f"alter index {name} attach partition {of_partition}")


def drop_index(name: str) -> None:
    """Drop an index; of a partitioned table, that of each partition with it."""
    if _scalar(_IS_OF_PARTITIONS, name=name):
        briefly(f"drop index if exists {name}")
    else:
        _patiently(f"drop index concurrently if exists {name}")


def add_check(table: str, name: str, condition: str) -> None:
    """Add a check: for new rows at once, then for those that are there, which may be read and written meanwhile."""
    _add_constraint(table, name, f"check ({condition})")


def add_foreign_key(table: str, name: str, columns: str, references: str) -> None:
    """Add a foreign key on `columns`, which references such as `threads (id)`."""
    _add_constraint(table, name, f"foreign key ({columns}) references {references}")


def set_not_null(table: str, column: str) -> None:
    """Let a column be null no more: proved by a check, so that the rows are not read under a strong lock."""
    proof = f"{table}_{column}_proof"[:_NAME_LIMIT]
    add_check(table, proof, f"{column} is not null")
    briefly(f"alter table {table} alter column {column} set not null")
    drop_constraint(table, proof)


def drop_constraint(table: str, name: str) -> None:
    """Drop a check or a foreign key."""
    briefly(f"alter table {table} drop constraint if exists {name}")


def backfill(table: str, key: str, change: str, where: str, *, batch: int = BATCH) -> None:
    """Change the rows that `where` finds, `batch` of them in a transaction; rows that somebody has locked come later.

    A row that was changed must not be found any more.
    """
    found = f"select {key} from {table} where {where} limit {batch} for update skip locked"
    with _alone() as connection:
        while True:
            changed = connection.execute(sa.text(f"update {table} set {change} where ({key}) in ({found})")).rowcount
            if not changed and not connection.scalar(sa.text(f"select true from {table} where {where} limit 1")):
                return
            if not changed:
                connection.execute(sa.text("select pg_sleep(0.1)"))


def _add_constraint(table: str, name: str, rule: str) -> None:
    if not _scalar(_HAS_CONSTRAINT, table=table, name=name):
        briefly(f"alter table {table} add constraint {name} {rule} not valid")
    with _alone() as connection:
        connection.execute(sa.text(f"alter table {table} validate constraint {name}"))


def _create_concurrently(name: str, table: str, what: str, kind: str) -> None:
    if _scalar(_IS_BROKEN, name=name):
        _patiently(f"drop index concurrently {name}")
    _patiently(f"create {kind} concurrently if not exists {name} on {table} {what}")


def _patiently(statement: str) -> None:
    """It waits for transactions to end, and nobody waits for it."""
    with _alone() as connection:
        wait = _shown(connection, "lock_timeout")
        _set(connection, "lock_timeout", "0")
        try:
            connection.execute(sa.text(statement))
        finally:
            _set(connection, "lock_timeout", wait)


@contextmanager
def _alone() -> Iterator[Connection]:
    """A connection on which each statement is its own transaction; what the migration did before is committed."""
    with op.get_context().autocommit_block():
        yield op.get_bind()


def _set(connection: Connection, setting: str, value: str) -> None:
    connection.execute(sa.text(f"set {setting} = '{value}'"))


def _shown(connection: Connection, setting: str) -> str:
    return str(connection.scalar(sa.text(f"show {setting}")))


def _scalar(query: str, **values: str) -> bool:
    return bool(op.get_bind().scalar(sa.text(query), values))


def _scalars(query: str, **values: str) -> list[str]:
    return list(op.get_bind().execute(sa.text(query), values).scalars())
