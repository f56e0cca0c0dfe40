"""`organism audit` needs the database alone, and says by its exit status what came of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, handled_message, used
from tests.support.organism_up import organism
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.storage.database import Database


def _audit(url: str | None, *more: str) -> subprocess.CompletedProcess[str]:
    return organism("audit", *more) if url is None else organism("audit", *more, ORGANISM_DATABASE_URL=url)


async def _fill(url: str, *statements: str) -> None:
    """A call that used more than its thread has, and what else is to be done."""
    db = Database.connect(url)
    message = await handled_message(db)
    await books.book(db, [used(message, uuid4(), prompt=700)], rules=Rules(500), pricing=PRICING)
    await db.close()
    await _execute(url, "update threads set slots = 1", *statements)


async def _execute(url: str, *statements: str) -> None:
    db = Database.connect(url)
    try:
        async with db.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))
    finally:
        await db.close()


def test_clean_books_exit_with_0(database_url: str) -> None:
    asyncio.run(_fill(database_url))
    table = _audit(database_url)
    assert (table.returncode, table.stderr) == (0, "")
    assert "the books were clean at" in table.stdout
    assert "pending: 0 open holds of 0 tokens" in table.stdout
    assert "overspent budget" in table.stdout
    said = json.loads(_audit(database_url, "--format", "json").stdout)
    assert (said["clean"], said["differences"], said["pending"]["openHolds"]) == (True, 0, 0)
    (overspent,) = said["overspent"]["first"]
    assert (overspent["limit"], overspent["spent"]) == (500, 705)


def test_differences_exit_with_1_and_are_listed(database_url: str) -> None:
    asyncio.run(_fill(database_url, "update usage_rollups set cost = cost + 1e-9 where grain = 'day'"))
    table = _audit(database_url)
    assert (table.returncode, table.stderr) == (1, "")
    assert "1 difference at" in table.stdout
    run = _audit(database_url, "--json")
    said = json.loads(run.stdout)
    assert (run.returncode, said["clean"], said["differences"]) == (1, False, 1)
    (found,) = [check for check in said["checks"] if check["differences"]]
    assert found["name"] == "usage-rollups"
    assert found["first"][0]["expected"] != found["first"][0]["found"]


@pytest.mark.parametrize("url", [None, "postgresql://organism@127.0.0.1:1/organism"])
def test_not_to_have_looked_exits_with_2(url: str | None) -> None:
    run = _audit(url)
    assert (run.returncode, run.stdout) == (2, "")
    assert "ORGANISM_DATABASE_URL" in run.stderr
    assert "Traceback" not in run.stderr


def test_another_schema_exits_with_2(empty_database_url: str) -> None:
    run = _audit(empty_database_url)
    assert (run.returncode, run.stdout) == (2, "")
    assert "organism migrate" in run.stderr


@pytest.fixture
def stranger(database_url: str) -> Iterator[str]:
    """A user who may read which schema it is, and nothing else."""
    name = f"stranger_{uuid4().hex[:8]}"
    made = (f"create role {name} login password 'secret'", f"grant select on alembic_version to {name}")
    asyncio.run(_execute(database_url, *made))
    parts = urlsplit(database_url)
    yield parts._replace(netloc=f"{name}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
    asyncio.run(_execute(database_url, f"drop owned by {name}", f"drop role {name}"))


def test_a_user_who_may_not_read_the_books_exits_with_2(stranger: str) -> None:
    run = _audit(stranger)
    assert (run.returncode, run.stdout) == (2, ""), run.stdout
    assert "permission denied" in run.stderr
    assert "Traceback" not in run.stderr
