"""Migrations while services work: nobody waits for a lock for more than a second, and nothing is lost or done twice.

Those that are there, as far as services can go on meanwhile, and some that are to come: columns, indexes, checks, keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tests.benchmarks.audit import fill_books
from tests.chaos.load import until
from tests.integration.test_least_rights import COUNTS, MODULE, write
from tests.support.broker import unique_organism
from tests.support.fleet import Fleet, running
from tests.support.least_rights import run_organism
from tests.support.lock_watch import Locks, watched_locks
from tests.support.migrations import TO_COME, add_scripts, add_those_to_come, copied_scripts
from tests.support.postgres import Databases
from tests.support.steady_load import SteadyLoad, steady_load
from xml_pipeline.audit.closing import close_books
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import MIGRATIONS, current_revision, known_revisions, migrate_database

ROWS = 50_000
RATE = 10.0
LIMIT = 1.0
# Not one statement for each step, so that others wait for all of them: what the rule is against.
BAD = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "bad", "HEAD", None, None


def upgrade():
    op.execute("alter table messages add column slow int")
    op.execute("select pg_sleep(1.5)")


def downgrade():
    op.execute("alter table messages drop column slow")
"""
_ENDED = """
    select count(*) from threads where id = any(cast($1 as uuid[])) and status = 'completed' and open = 0
"""
_ANSWERS = """
    select count(*), count(distinct thread_id) from messages
    where to_id = 'api' and thread_id = any(cast($1 as uuid[]))
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """A fleet with much in its database."""

    database_url: str
    gateway: str

    @asynccontextmanager
    async def under_load(self) -> AsyncIterator[Locks]:
        """Load, and a look at the locks; in the end every inject is answered once, and the books are clean."""
        async with steady_load(self.gateway, "asker", rate=RATE) as load:
            await until(lambda: _some(load, 5))
            async with watched_locks(self.database_url) as locks:
                yield locks
            wanted = len(load.accepted) + 5
            await until(lambda: _some(load, wanted))
        await self._all_ended([accepted.thread for accepted in load.accepted])
        print(f"{len(load.accepted)} injects, the slowest {load.slowest:.2f} s; {locks}")

    async def _all_ended(self, threads: list[str]) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            await until(lambda: _all(connection, threads))
            assert tuple(await connection.fetchrow(_ANSWERS, threads)) == (len(threads), len(threads))
        finally:
            await connection.close()
        await assert_clean(self.database_url)


async def _some(load: SteadyLoad, count: int) -> bool:
    return len(load.accepted) >= count


async def _all(connection: asyncpg.Connection, threads: list[str]) -> bool:
    return bool(await connection.fetchval(_ENDED, threads) == len(threads))


async def assert_clean(url: str) -> None:
    db = Database.connect(url)
    try:
        audit = await close_books(db)
        assert audit.clean, audit.differences
    finally:
        await db.close()


@pytest.fixture(scope="module")
def ground(amqp_url: str, postgres: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder, url, name = tmp_path_factory.mktemp("migrations"), postgres.create_database(), unique_organism()
    asyncio.run(fill_books(url, ROWS))
    (folder / "rights.py").write_text(MODULE)
    write(folder / "organism.yaml", name, "deny", budget=2**50)
    with running(Fleet(folder / "organism.yaml", amqp_url, url, folder), COUNTS) as fleet:
        yield Ground(url, fleet.urls()[0])
    postgres.drop(url)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The migrations that are there; those that are to come are put beside them."""
    return copied_scripts(tmp_path)


def migrate_in_thread(url: str, revision: str, scripts: Path = MIGRATIONS) -> asyncio.Future[None]:
    """Out of the way of those who look on."""
    return asyncio.ensure_future(
        asyncio.to_thread(lambda: asyncio.run(migrate_database(url, revision=revision, scripts=scripts)))
    )


@pytest.mark.timeout(240)
async def test_migrations_to_come_have_nobody_wait(ground: Ground, scripts: Path) -> None:
    add_those_to_come(scripts)
    for revision in ("head", str(current_revision())):
        async with ground.under_load() as locks:
            await migrate_in_thread(ground.database_url, revision, scripts)
            if revision == "head":
                await everything_is_there(ground.database_url)
        assert locks.short(LIMIT), locks


async def everything_is_there(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("select count(*) from usage_events where region = 'old'") >= ROWS
        broken = await connection.fetch("select indexrelid::regclass from pg_index where not indisvalid")
        assert broken == []
        unproved = await connection.fetch("select conname from pg_constraint where not convalidated")
        assert unproved == []
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("update messages set priority = 10 where id = (select id from messages limit 1)")
    finally:
        await connection.close()


async def test_the_newest_migrations_down_and_up(ground: Ground) -> None:
    environment = {"ORGANISM_DATABASE_URL": ground.database_url}
    async with ground.under_load() as locks:
        for arguments, told in ((("--to", "0005", "--yes"), "that of revision 0005"), ((), "the schema is current")):
            done = await asyncio.to_thread(run_organism, "migrate", *arguments, environment=environment)
            assert told in done.stdout, done.stderr
    assert locks.short(LIMIT), locks


async def test_a_migration_that_has_others_wait_is_seen(ground: Ground, scripts: Path) -> None:
    add_scripts(scripts, bad=BAD)
    async with ground.under_load() as locks:
        await migrate_in_thread(ground.database_url, "head", scripts)
    await migrate_database(ground.database_url, revision=str(current_revision()), scripts=scripts)
    assert locks.longest_held > LIMIT
    assert locks.longest_waited > LIMIT
    assert not locks.short(LIMIT)


def test_what_is_to_come_goes_on_the_newest(scripts: Path) -> None:
    add_those_to_come(scripts)
    assert len(known_revisions(scripts) - known_revisions()) == len(list(TO_COME.glob("*.py")))
