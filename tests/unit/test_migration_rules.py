"""Migrations that run while services work keep to what nobody waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.migration_rules import faults
from tests.support.migrations import TO_COME
from xml_pipeline.storage.schema import MIGRATIONS

# Made before the rule. docs/backup.md says which of them want the services stopped. No other may be added.
BEFORE_THE_RULE = ("0001", "0002", "0003", "0004", "0005", "0007")
UNDER_THE_RULE = sorted(
    file
    for file in (*(MIGRATIONS / "versions").glob("*.py"), *TO_COME.glob("*.py"))
    if not file.name.startswith(BEFORE_THE_RULE)
)


@pytest.mark.parametrize("file", UNDER_THE_RULE, ids=lambda file: file.name)
def test_services_need_not_be_stopped_for_it(file: Path) -> None:
    assert faults(file.read_text()) == []


HEADER = "import sqlalchemy as sa\nfrom alembic import op\nfrom xml_pipeline.storage import online\n"


@pytest.mark.parametrize(
    "step",
    [
        'op.create_index("ix", "messages", ["seq"])',
        'op.add_column("messages", sa.Column("a", sa.Text()))',
        'op.alter_column("messages", "hop", type_=sa.BigInteger())',
        'op.alter_column("messages", "hop", nullable=False)',
        'op.create_foreign_key("fk", "calls", "threads", ["thread_id"], ["id"])',
        'op.create_check_constraint("ck", "messages", "hop > 0")',
        'op.execute("alter table messages alter column hop type bigint")',
        'op.execute("update messages set hop = 1")',
        'op.execute(f"create view v as {1}")',
        'op.get_bind().execute(sa.text("lock table messages"))',
        'do = op.execute\ndo("lock table messages")',
        'online.briefly("alter table messages alter column hop type bigint")',
        'online.briefly("alter table messages alter column hop set data type bigint")',
        'online.briefly("alter table messages alter hop_count set not null")',
        'online.briefly("create index ix on messages (seq)")',
        'online.briefly("alter table calls add constraint fk foreign key (thread_id) references threads (id)")',
        'online.briefly("alter table calls\\n add  check (open > 0)")',
        'online.briefly(f"alter table {1}")',
        'online.add_column("calls", "thread_id uuid references threads (id)")',
        'online.add_column("calls", "other uuid unique")',
        'online.add_column("calls", "twice int generated always as (open * 2) stored")',
        'online.add_column("calls", "other uuid default gen_random_uuid()")',
        'online.add_column("calls", "other int check (other > 0)")',
        'online.add_column("calls", f"other int default {1}")',
        'online.add_foreign_key("usage_events", "fk", "thread_id", "threads (id)")',
        'online.create_index("ix_of_a_name_that_is_longer_than_the_name_of_a_month_leaves", "usage_events", "model")',
        "import psycopg",
        "from xml_pipeline.storage.online import _alone",
        'op.drop_table("a")\nonline.drop_column("b", "c")',
    ],
)
def test_what_has_others_wait_is_refused(step: str) -> None:
    assert faults(HEADER + step)


@pytest.mark.parametrize(
    "step",
    [
        'op.create_table("new", sa.Column("id", sa.Uuid()))\nop.create_index("ix", "new", ["id"])',
        'op.execute("create or replace view reports.v as select 1")',
        'online.briefly("alter table messages alter column hop set default 1")',
        'online.add_column("messages", "unique_name varchar(20) not null default \'new\'")',
        'online.create_index("ix_of_a_name_that_is_longer_than_the_name_of_a_month_leaves", "messages", "seq")',
        'online.briefly("alter table calls add constraint ck check (open > 0) not valid")',
        'online.briefly("create index ix on only usage_events (agent_id)")',
    ],
)
def test_what_nobody_waits_for_is_not(step: str) -> None:
    assert faults(HEADER + step) == []
