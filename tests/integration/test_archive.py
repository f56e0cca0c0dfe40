"""Months of usage: made ahead, archived to files, and the books that still close."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, ask, handled_message, numbers, used
from xml_pipeline.audit.closing import close_books, recompute
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.storage import archiving
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.partitions import make_months, month_of, next_month, partition_of

EVENTS = 30
NOW = datetime.now(UTC)
LAST_MONTH = month_of(month_of(NOW) - timedelta(days=1))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


async def _book(db: Database, at: datetime, count: int = EVENTS) -> None:
    """Usage of that time, of a thread with a tag."""
    message = await handled_message(db, uuid4(), agent="writer", tags={"team": "blue"})
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))
    events = [used(message, uuid4(), prompt=100 + n, at=at + timedelta(minutes=n)) for n in range(count)]
    await books.book(db, events, rules=Rules(10**9), pricing=PRICING)


async def _make_last_month(db: Database) -> None:
    """As a service had done then: what is among the others already is moved."""
    async with db.begin() as connection:
        await connection.execute(
            text(
                f"create table {partition_of(LAST_MONTH)} partition of usage_events"
                f" for values from ('{LAST_MONTH.isoformat()}') to ('{next_month(LAST_MONTH).isoformat()}')"
            )
        )


def _archive(url: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    before = f"{month_of(NOW):%Y-%m}"
    command = [sys.executable, "-m", "xml_pipeline", "usage", "archive", "--before", before, "--to", str(folder), *more]
    env = {**os.environ, "ORGANISM_DATABASE_URL": url, "COLUMNS": "200"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


async def test_months_are_made_ahead_and_take_what_was_kept_apart(db: Database) -> None:
    await _book(db, NOW)
    assert await numbers(db, "select count(*) from usage_events_other") == (EVENTS,)
    ahead = [month_of(NOW), next_month(month_of(NOW)), next_month(next_month(month_of(NOW)))]
    assert await make_months(db) == [partition_of(month) for month in ahead]
    assert await make_months(db) == []
    # The end of a month is where some of these may belong to the next.
    assert await numbers(db, "select count(*) from usage_events_other") == (0,)
    await _book(db, NOW)
    assert await numbers(db, "select count(*) from usage_events") == (2 * EVENTS,)
    assert (await close_books(db)).clean
    valid = "select count(*), bool_and(i.indisvalid) from pg_index i where indrelid = cast(:table as regclass)"
    assert await numbers(db, valid, table=partition_of(month_of(NOW))) == (3, True)


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_month_goes_to_a_file_and_the_books_still_close(
    db: Database, database_url: str, tmp_path: Path, form: str
) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH + timedelta(days=3))
    await _book(db, NOW - timedelta(hours=1) if NOW.day > 1 else NOW)
    kept = await _raw(db)
    before = await numbers(db, "select sum(cost), sum(requests) from usage_rollups where grain = 'day'")
    done = _archive(database_url, tmp_path, "--format", form)
    assert done.returncode == 0, done.stderr
    rows = _read(tmp_path / f"usage-{LAST_MONTH:%Y-%m}.{form}")
    assert [(row["call_id"], row["prompt_tokens"], row["cost"], row["tags"]) for row in rows] == kept
    assert await numbers(db, "select count(*) from usage_events") == (EVENTS,)
    assert await numbers(db, f"select count(*) from usage_events_archived_{LAST_MONTH:%Y_%m}") == (EVENTS,)  # noqa: S608
    assert await numbers(db, "select events, length(sha256) from usage_archives") == (EVENTS, 64)
    assert await numbers(db, "select sum(cost), sum(requests) from usage_rollups where grain = 'day'") == before
    audit = await close_books(db)
    assert audit.clean, [finding for finding in audit.findings if finding.count]
    assert "nothing to archive" in _archive(database_url, tmp_path).stdout


async def test_usage_of_an_archived_month_that_comes_late_is_kept(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    assert _archive(database_url, tmp_path, "--format", "csv", "--drop").returncode == 0
    await _book(db, LAST_MONTH + timedelta(hours=5), count=3)
    assert await numbers(db, "select count(*) from usage_events_other") == (3,)
    audit = await close_books(db)
    assert audit.clean, [finding for finding in audit.findings if finding.count]
    assert await numbers(db, "select to_regclass(:name) is null", name=partition_of(LAST_MONTH)) == (True,)


_CARRIED = {"archived-months", "archived-tags", "spent"}
_WRONG = {
    "a sum carried forward": ("update carried_forward set prompt_tokens = prompt_tokens + 1", _CARRIED),
    "a sum carried forward is missing": ("delete from carried_forward", {"archives", *_CARRIED}),
    "an hour": ("update usage_rollups set latency_us = 0 where grain = 'hour'", {"archived-days"}),
    "a day": (
        "update usage_rollups set cost = cost + 1e-9 where grain = 'day'",
        {"archived-months", "archived-days"},
    ),
    "a tag's day": (
        "update tag_rollups set requests = 1 where grain = 'day'",
        {"archived-tags", "archived-tag-days"},
    ),
    "the count of a file": ("update usage_archives set events = events - 1", {"archives"}),
}


async def test_what_is_wrong_in_an_archived_month_is_found(db: Database, database_url: str, tmp_path: Path) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    assert _archive(database_url, tmp_path, "--format", "csv").returncode == 0
    for what, (statement, checks) in _WRONG.items():
        async with db.begin() as connection:
            assert (await connection.execute(text(statement))).rowcount, what
            audit = await recompute(connection)
            assert {finding.check.name for finding in audit.findings if finding.count} == checks, what
            await connection.rollback()


async def test_what_is_booked_while_a_month_is_written_is_not_lost(db: Database) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with db.begin() as connection:
        written = await archiving.totals(connection, LAST_MONTH)
    await _book(db, LAST_MONTH, count=1)
    with pytest.raises(archiving.ArchiveChanged):
        async with db.begin() as connection:
            await archiving.take_out(connection, LAST_MONTH, written, file="x", sha256="", drop=True)
    assert await numbers(db, "select count(*) from usage_events") == (EVENTS + 1,)


async def test_a_month_that_is_not_over_or_not_settled_is_refused(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    await make_months(db)
    after = f"{next_month(month_of(NOW)):%Y-%m}"
    early = _archive(database_url, tmp_path, "--before", after, "--format", "csv")
    assert (early.returncode, "is not over" in early.stderr) == (1, True), early.stderr
    message = await handled_message(db)
    await books.book(db, [ask(message)], rules=Rules(), pricing=PRICING)
    async with db.begin() as connection:
        await connection.execute(text("update holds set granted_at = :at"), {"at": LAST_MONTH})
    open_call = _archive(database_url, tmp_path, "--format", "csv")
    assert "not settled" in open_call.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def _raw(db: Database) -> list[tuple[str, int, Decimal, str]]:
    async with db.begin() as connection:
        rows = await connection.execute(
            text(
                f'select call_id::text, prompt_tokens, cost, \'{{"team": "blue"}}\' from {partition_of(LAST_MONTH)}'  # noqa: S608
                " order by granted_at, call_id"
            )
        )
        return [tuple(row) for row in rows]


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(newline="") as file:
        return [
            row | {"prompt_tokens": int(row["prompt_tokens"]), "cost": Decimal(row["cost"])}
            for row in csv.DictReader(file)
        ]
