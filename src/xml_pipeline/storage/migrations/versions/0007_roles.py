"""A role for each service, and the one function by which a service makes a table: a month of usage.

Rights are granted after every migration (`xml_pipeline.storage.rights`), so that none forgets them.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

ROLES = ("organism_gateway", "organism_router", "organism_usage")

# It runs as who owns the tables, looks names up in their schema alone, and takes no name from its caller.
# 0x786D7075 keeps two of it from each other; the caller says by `lock_timeout` how long it may wait.
MAKE_MONTH = """
create function make_usage_month(month timestamptz, most_moved bigint) returns text
language plpgsql security definer set timezone = 'UTC' as $$
declare
    first timestamptz := date_trunc('month', month);
    past timestamptz := date_trunc('month', month) + interval '1 month';
    name text := 'usage_events_' || to_char(date_trunc('month', month), 'YYYY_MM');
    outside bigint;
begin
    perform pg_advisory_xact_lock(2020438133);
    if exists (
        select from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'usage_events'::regclass and c.relname = name
    ) then
        return 'there';
    end if;
    if most_moved is not null then
        select count(*) into outside from (
            select from usage_events_other where granted_at >= first and granted_at < past limit most_moved + 1
        ) o;
        if outside > most_moved then
            return 'too many';
        end if;
    end if;
    -- Made and then attached: `create table ... partition of` would lock out all who read, too.
    execute format('create table %I (like usage_events including all)', name);
    -- Who books waits at the door: an event on its way to where it does not belong any more would be refused.
    lock table only usage_events in share row exclusive mode;
    lock table usage_events_other in access exclusive mode;
    if exists (select from usage_events_other where granted_at >= first and granted_at < past) then
        execute format(
            'with moved as (delete from usage_events_other where granted_at >= $1 and granted_at < $2 returning *)'
            ' insert into %I select * from moved', name
        ) using first, past;
    end if;
    execute format('alter table usage_events attach partition %I for values from (%L) to (%L)', name, first, past);
    return 'made';
end $$
"""


def upgrade() -> None:
    """Make the roles where that may be done, and the function."""
    for role in ROLES:
        _make_role(role)
    op.execute(MAKE_MONTH)
    op.execute("""
        do $$ begin
            execute format(
                'alter function make_usage_month(timestamptz, bigint) set search_path = %I, pg_temp', current_schema()
            );
        end $$
    """)
    op.execute("revoke all on function make_usage_month(timestamptz, bigint) from public")


def downgrade() -> None:
    """Take the function away. The roles stay, with what they may do: other databases of the server may use them."""
    op.execute("drop function make_usage_month(timestamptz, bigint)")


def _make_role(role: str) -> None:
    # Roles belong to the server: another database may have made it, or be making it now, or nobody may here.
    op.execute(f"""
        do $$ begin
            create role {role} nologin;
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise notice 'the role {role} was not made: who migrates may not make roles';
        end $$
    """)
