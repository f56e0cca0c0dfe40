"""`organism migrate --to`: nothing is dropped that was not asked for."""

from __future__ import annotations

import asyncio
import subprocess

import asyncpg
import pytest

from tests.support.least_rights import run_organism
from xml_pipeline.storage.schema import current_revision


def migrate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_organism("migrate", *arguments, environment={"ORGANISM_DATABASE_URL": url})


def revision(url: str) -> str:
    async def ask() -> str:
        connection = await asyncpg.connect(url)
        try:
            return str(await connection.fetchval("select version_num from alembic_version"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_an_older_revision_is_told_of_and_wants_a_yes(database_url: str) -> None:
    asked = migrate(database_url, "--to", "0005")
    assert asked.returncode == 2
    assert "0007: A role for each service" in asked.stdout
    assert "0005: " not in asked.stdout
    assert "--yes" in asked.stderr
    assert revision(database_url) == current_revision()
    done = migrate(database_url, "--to", "0005", "--yes")
    assert done.returncode == 0, done.stderr
    assert revision(database_url) == "0005"


def test_everything_is_not_dropped(database_url: str) -> None:
    asked = migrate(database_url, "--to", "base", "--yes")
    assert asked.returncode == 2
    assert "drop the database" in asked.stderr
    assert revision(database_url) == current_revision()


@pytest.mark.parametrize("newest", ["head", str(current_revision())])
def test_the_newest_revision_is_the_one_without_saying(database_url: str, newest: str) -> None:
    done = migrate(database_url, "--to", newest)
    assert done.returncode == 0, done.stderr
    assert f"the schema is current: {current_revision()}" in done.stdout
