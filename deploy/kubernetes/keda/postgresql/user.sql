-- The user that KEDA counts as: it reads what the query needs, column by column, and no payload. For who owns the tables
-- and may make roles, in the organism's database; its password by `\password autoscaler` in psql.
create role autoscaler login nosuperuser nocreatedb nocreaterole noreplication connection limit 5;
alter role autoscaler set default_transaction_read_only = on;
alter role autoscaler set statement_timeout = '5s';
grant select (to_id, state, parked_for, due_at) on messages to autoscaler;
grant select (to_id, taken_at) on inbox to autoscaler;
grant select (name, paused, retired) on listeners to autoscaler;
