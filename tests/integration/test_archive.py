"""Months of usage: made ahead, archived to files, and the books that still close."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import os
import signal
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
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.integration.ledger_support import PRICING, ask, handled_message, numbers, used
from xml_pipeline.audit import closing
from xml_pipeline.audit.closing import close_books, recompute
from xml_pipeline.audit.model import Check, Finding
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.message_bus.messages import HoldRelease
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


def _archive(url: str, folder: Path, *more: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
    before = f"{month_of(NOW):%Y-%m}"
    command = [sys.executable, "-m", "xml_pipeline", "usage", "archive", "--before", before, "--to", str(folder), *more]
    env = {**os.environ, "ORGANISM_DATABASE_URL": url, "COLUMNS": "200", "ORGANISM_FAILPOINTS": failpoints}
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


_CHANGES = {
    "one more": "insert into usage_events select gen_random_uuid(), message_id, thread_id, agent_id, model, provider,"
    " 0, 0, null, null, null, null, null, null, null, null, 0, null, null, kind, period, granted_at, booked_at"
    " from usage_events limit 1",
    "one less": "delete from usage_events where prompt_tokens = 100",
    "a little dearer": "update usage_events set cost = cost + 1e-9 where prompt_tokens = 100",
    "another price": "update usage_events set price_id = 7 where prompt_tokens = 100",
    "no cache": "update usage_events set uncached_cost = 1 where prompt_tokens = 100",
    "booked anew": "update usage_events set booked_at = booked_at + interval '1 us' where prompt_tokens = 100",
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
async def test_what_changes_while_a_month_is_written_is_not_lost(db: Database, change: str) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with db.begin() as connection:
        written = await archiving.totals(connection, LAST_MONTH)
        await connection.execute(text(change))
    with pytest.raises(archiving.ArchiveChanged):
        async with db.begin() as connection:
            await archiving.take_out(connection, LAST_MONTH, written, file="x", sha256="", drop=True)
    assert await numbers(db, "select to_regclass(:table) is not null", table=partition_of(LAST_MONTH)) == (True,)
    assert await numbers(db, "select (select count(*) from carried_forward), count(*) from usage_archives") == (0, 0)


_ALL = """
    select e.call_id::text, e.message_id::text, e.thread_id::text, e.agent_id, e.model, e.provider, e.prompt_tokens,
        e.completion_tokens, e.cache_read_tokens, e.cache_write_tokens, e.reasoning_tokens, e.audio_prompt_tokens,
        e.audio_completion_tokens, e.image_prompt_tokens, e.image_completion_tokens, e.latency_us, e.cost,
        e.uncached_cost, e.kind, e.period, e.granted_at, e.booked_at, p.source, p.rates::text, t.tags::text
    from usage_events e left join prices p on p.id = e.price_id left join threads t on t.id = e.thread_id
    order by e.granted_at, e.call_id
"""
_MORE = """
    insert into usage_events (call_id, thread_id, agent_id, model, provider, prompt_tokens, completion_tokens,
        cache_read_tokens, latency_us, cost, uncached_cost, kind, period, granted_at)
    select gen_random_uuid(), gen_random_uuid(), 'wri,t"er', 'größe', 'x', n, 0, nullif(n % 3, 0), nullif(n, 5),
        n * 0.000000000000000001, nullif(n % 2, 0), 'measured', 1,
        cast(:at as timestamptz) + n * interval '1 microsecond'
    from generate_series(1, :count) n
"""


async def test_every_column_of_every_event_is_in_the_file(db: Database, database_url: str, tmp_path: Path) -> None:
    """More events than are in memory at once; with what is not known, not priced, of no known thread; small money."""
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with db.begin() as connection:
        await connection.execute(text(_MORE), {"at": LAST_MONTH, "count": 2 * archiving.CHUNK + 7})
        kept = [tuple(row) for row in await connection.execute(text(_ALL))]
    folder = tmp_path / "archive"
    assert _archive(database_url, folder, "--dry-run").returncode == 0
    assert not folder.exists()
    assert _archive(database_url, folder).returncode == 0
    file = folder / f"usage-{LAST_MONTH:%Y-%m}.parquet"
    assert [tuple(row.values()) for row in pq.read_table(file).to_pylist()] == kept
    assert await numbers(db, "select file, sha256 from usage_archives") == (file.name, _sha256(file))


async def test_money_that_parquet_cannot_hold_is_not_rounded(db: Database, database_url: str, tmp_path: Path) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with db.begin() as connection:
        await connection.execute(text("update usage_events set cost = 1e-19 where prompt_tokens = 110"))
    refused = _archive(database_url, tmp_path)
    assert (refused.returncode, "use --format csv" in refused.stderr) == (1, True), refused.stderr
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert _archive(database_url, tmp_path, "--format", "csv").returncode == 0
    (row,) = (row for row in _read(tmp_path / f"usage-{LAST_MONTH:%Y-%m}.csv") if row["prompt_tokens"] == 110)
    assert row["cost"] == Decimal("1e-19")


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("moment", ["before-rename", "after-file", "before-commit", "after-commit"])
async def test_killed_and_run_again_it_finishes(
    db: Database, database_url: str, tmp_path: Path, moment: str, form: str
) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    before = await _raw(db)
    killed = _archive(database_url, tmp_path, "--format", form, failpoints=f"archive.{moment}=kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    await _assert_clean(db)
    done = _archive(database_url, tmp_path, "--format", form)
    assert done.returncode == 0, done.stderr
    assert ("nothing to archive" in done.stdout) == (moment == "after-commit")
    file = tmp_path / f"usage-{LAST_MONTH:%Y-%m}.{form}"
    assert [(row["call_id"], row["prompt_tokens"], row["cost"], row["tags"]) for row in _read(file)] == before
    assert await numbers(db, "select events, sha256 from usage_archives") == (EVENTS, _sha256(file))
    assert await numbers(db, "select count(*) from usage_events") == (0,)
    await _assert_clean(db)


async def test_another_file_with_its_name_is_left_alone(db: Database, database_url: str, tmp_path: Path) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    file = tmp_path / f"usage-{LAST_MONTH:%Y-%m}.csv"
    file.write_text("another organism's month")
    refused = _archive(database_url, tmp_path, "--format", "csv", "--drop")
    assert (refused.returncode, "move it away" in refused.stderr) == (1, True), refused.stderr
    assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208
    assert file.read_text() == "another organism's month"
    assert await numbers(db, "select count(*) from usage_events") == (EVENTS,)


async def test_one_at_a_time(db: Database, database_url: str, tmp_path: Path) -> None:
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with archiving.archiving_alone(db):
        refused = await asyncio.to_thread(_archive, database_url, tmp_path, "--format", "csv")
    assert (refused.returncode, "another archive is under way" in refused.stderr) == (1, True), refused.stderr
    assert _archive(database_url, tmp_path, "--format", "csv").returncode == 0


async def test_months_that_never_had_a_table_are_archived_too(db: Database, database_url: str, tmp_path: Path) -> None:
    """As those of before there were months."""
    await _book(db, LAST_MONTH)
    await _book(db, month_of(LAST_MONTH - timedelta(days=1)))
    await _book(db, NOW, count=1)
    assert f"{LAST_MONTH:%Y-%m}" in _archive(database_url, tmp_path, "--format", "csv", "--dry-run").stdout
    assert await numbers(db, "select count(*) from usage_events_other") == (2 * EVENTS + 1,)
    done = _archive(database_url, tmp_path, "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert await numbers(db, "select count(*), sum(events) from usage_archives") == (2, 2 * EVENTS)
    assert await numbers(db, "select count(*) from usage_events") == (1,)
    await _assert_clean(db)


async def test_who_closes_the_books_sees_a_month_whole_or_carried_forward(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the two meet: a month does not leave the tables under the audit's eyes."""
    await _make_last_month(db)
    await _book(db, LAST_MONTH)
    async with db.begin() as connection:
        written = await archiving.totals(connection, LAST_MONTH)
    look, met = closing._look, list[Check]()

    async def take_out() -> None:
        async with db.begin() as other:
            await archiving.take_out(other, LAST_MONTH, written, file="x", sha256="", drop=True)

    async def meet(connection: AsyncConnection, check: Check, shown: int) -> Finding:
        if not met:
            met.append(check)
            with pytest.raises(DBAPIError, match="lock timeout"):
                await take_out()
        return await look(connection, check, shown)

    monkeypatch.setattr(closing, "_look", meet)
    await _assert_clean(db)
    await take_out()
    await _assert_clean(db)


async def test_bookings_go_on_while_months_are_archived(db: Database, database_url: str, tmp_path: Path) -> None:
    """None has to be done again."""
    await _make_last_month(db)
    await make_months(db)
    await _book(db, LAST_MONTH)
    archive = asyncio.create_task(asyncio.to_thread(_archive, database_url, tmp_path, "--format", "csv"))
    booked = 0
    while not archive.done():
        await _book(db, NOW, count=1)
        booked += 1
    done = await archive
    assert done.returncode == 0, done.stderr
    assert await numbers(db, "select count(*) from usage_events") == (booked,)
    await _assert_clean(db)


async def _assert_clean(db: Database) -> None:
    audit = await close_books(db)
    assert audit.clean, [finding for finding in audit.findings if finding.count]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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


@pytest.mark.parametrize("late", ["event", "release"])
async def test_what_is_late_for_an_expired_call_of_an_archived_month_changes_nothing(db: Database, late: str) -> None:
    await _make_last_month(db)
    message = await handled_message(db)
    request = ask(message)
    await books.book(db, [request], rules=Rules(), pricing=PRICING)
    at = LAST_MONTH + timedelta(days=1)
    async with db.begin() as connection:
        await connection.execute(text("update threads set slots = 1"))
        await connection.execute(text("update holds set granted_at = :at, expires_at = :at"), {"at": at})
    await books.sweep(db, rules=Rules(), pricing=PRICING)
    async with db.begin() as connection:
        written = await archiving.totals(connection, LAST_MONTH)
        await archiving.take_out(connection, LAST_MONTH, written, file="x", sha256="", drop=True)
    spent = await numbers(db, "select array_agg(prompt_tokens + completion_tokens order by level) from budgets")
    event, release = used(message, request.call_id, at=at), HoldRelease(call_id=request.call_id)
    usual = used(message, uuid4())
    changes = await books.book(db, [event if late == "event" else release, usual], rules=Rules(), pricing=PRICING)
    assert list(changes.booked) == [usual.call_id]
    more = await numbers(db, "select array_agg(prompt_tokens + completion_tokens order by level) from budgets")
    assert (spent, more) == (([100, 100],), ([115, 115],))
    await _assert_clean(db)
