"""What this machine can do now: studies a second, closed loop, on the services as faults find them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg

from tests.chaos.checker import STEPS
from tests.chaos.clients import MIX, TARGETS
from tests.chaos.crew import COUNTS
from tests.chaos.ground import Ground, make_organism
from tests.chaos.load import active_threads, inject_all, until
from tests.support.broker import unique_organism
from tests.support.fleet import Fleet, running

STUDIES = 120
WARM_UP = 20
SHARE = 0.4
STUDY_MESSAGES = 24
SHORT_RATE = 10.0


def rate_for(ground: Ground, folder: Path, *, short: bool) -> float:
    """Injects a second to load with: 40 percent of the messages that the services manage; at most ten if `short`."""
    messages = sum(share * STEPS[TARGETS[what]].total() for what, share in MIX.items()) / sum(MIX.values())
    rate = SHARE * measure(ground, folder) * STUDY_MESSAGES / messages
    return min(rate, SHORT_RATE) if short else rate


def measure(ground: Ground, folder: Path) -> float:
    """Studies a second from the first inject to the last end."""
    file = make_organism(unique_organism("capacity"), folder / "organism")
    database_url = ground.databases.create_database()
    fleet = Fleet(file, ground.broker.amqp_url, database_url, folder, {"ORGANISM_WORKER_PROCESSES": "1"})
    try:
        with running(fleet, COUNTS, timeout=90.0):
            asyncio.run(_studies(fleet, WARM_UP))
            began = time.monotonic()
            asyncio.run(_studies(fleet, STUDIES))
            return STUDIES / (time.monotonic() - began)
    finally:
        ground.databases.drop(database_url)


async def _studies(fleet: Fleet, count: int) -> None:
    await inject_all(fleet.urls(), "planner", {"topic": "capacity"}, count)
    connection = await asyncpg.connect(fleet.database_url)
    try:

        async def quiet() -> bool:
            return await active_threads(connection) == 0

        await until(quiet, limit=120.0)
    finally:
        await connection.close()
