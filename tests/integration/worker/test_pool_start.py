"""A pool takes work as soon as it can."""

from __future__ import annotations

import asyncio

import psutil

from tests.support.fleet import ROOT
from tests.support.processes import wait_until
from xml_pipeline.worker.pool import Pool, Source
from xml_pipeline.worker.settings import WorkerSettings

HELLO = ROOT / "examples" / "hello-world"
CHILDREN = 3


def children() -> int:
    """How many processes of handlers this one has."""
    found = psutil.Process().children()
    return sum("xml_pipeline.worker.child" in " ".join(child.cmdline()) for child in found if child.is_running())


async def test_the_first_child_is_started_alone_and_the_others_follow() -> None:
    source = Source((HELLO / "organism.yaml").read_text(), str(HELLO))
    pool = Pool(source, WorkerSettings(processes=CHILDREN), None)  # type: ignore[arg-type]
    before, most = children(), 0
    watch, start = asyncio.create_task(pool.run()), asyncio.create_task(pool.start())
    try:
        while not start.done():
            most = max(most, children() - before)
            await asyncio.sleep(0.02)
        assert (await start).listeners == ("greeter", "shouter")
        assert most == 1
        await asyncio.to_thread(wait_until, lambda: pool.size == CHILDREN, timeout=60, what="all children are ready")
    finally:
        watch.cancel()
        await pool.close()
