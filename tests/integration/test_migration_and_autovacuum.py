"""A migration gets past an autovacuum, which PostgreSQL cancels for whoever waits for it long enough."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.chaos.load import until
from tests.integration.test_online_steps import add_step
from tests.support.least_rights import PASSWORD, with_user
from tests.support.migrations import copied_scripts
from tests.support.postgres_server import PostgresServer
from xml_pipeline.storage.schema import current_revision, migrate_database

pytestmark = pytest.mark.timeout(120)
# So many that it would take minutes: each page is slept for.
ROWS = 80_000
LIMIT = 60.0
SLOW = """
    alter table listeners set (
        autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
        autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0
    )
"""
WORKS = """
    select from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where a.backend_type = 'autovacuum worker' and l.relation = 'listeners'::regclass
        and l.mode = 'ShareUpdateExclusiveLock' and l.granted
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Of its own, since it looks each second at what is to be vacuumed."""
    server = PostgresServer()
    try:
        server.create()
        server.start()
        asyncio.run(prepared(server))
        yield server
    finally:
        server.close()


async def prepared(server: PostgresServer) -> None:
    admin = await asyncpg.connect(server.url())
    for statement in (
        "alter system set autovacuum_naptime = '1s'",
        "select pg_reload_conf()",
        f"create role owner login password '{PASSWORD}'",
        "create database organism owner owner",
    ):
        await admin.execute(statement)
    await admin.close()
    url = owners_url(server)
    await migrate_database(url)
    owner = await asyncpg.connect(url)
    await owner.execute(
        "insert into listeners (name, is_agent) select 'l' || i, true from generate_series(1, $1) i", ROWS
    )
    await owner.execute(SLOW)
    await owner.execute("update listeners set is_agent = false")
    await owner.close()


def owners_url(server: PostgresServer) -> str:
    return with_user(server.url("organism"), "owner")


@pytest.mark.parametrize("who", ["superuser", "owner"])
async def test_an_autovacuum_gives_way(server: PostgresServer, tmp_path: Path, who: str) -> None:
    scripts = copied_scripts(tmp_path)
    add_step(scripts, f"""online.add_column("listeners", "seen_by_{who} int")""")
    looking = await asyncpg.connect(server.url("organism"))
    await until(lambda: works(looking), limit=LIMIT)
    with capture_logs() as logs:
        async with asyncio.timeout(LIMIT):
            url = server.url("organism") if who == "superuser" else owners_url(server)
            await migrate_database(url, scripts=scripts)
    tried_again = sum(entry["event"] == "migration_tried_again" for entry in logs)
    # A superuser has it cancelled before a try is over; another waits long enough each tenth time.
    assert (tried_again < 9) == (who == "superuser")
    await looking.execute("update alembic_version set version_num = $1", current_revision())
    await looking.close()


async def works(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval(f"select exists ({WORKS})"))
