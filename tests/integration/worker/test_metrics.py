"""What a worker counts, from outside of the processes that run handlers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.worker.conftest import Connect
from tests.integration.worker.fake_router import PATIENCE, running_worker
from tests.integration.worker.test_handlers import ask, let_go, started
from tests.support.scrape import told
from xml_pipeline.envelope.model import Outcome
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.organism.model import Organism


async def test_runs_by_listener_and_outcome(memory: Connect, zoo: Organism) -> None:
    metrics = Metrics()
    async with running_worker(memory, zoo, metrics=metrics) as scene:
        for _ in range(3):
            assert (await scene.router.ask(ask("calm"))).outcome is Outcome.OK
        assert (await scene.router.ask(ask("raises"))).outcome is Outcome.ERROR
        now = await told(metrics)
        assert now.total("organism_handler_seconds_count", listener="calm", outcome="ok") == 3
        assert now.total("organism_handler_seconds_count", listener="raises", outcome="error") == 1
        assert now.total("organism_worker_wait_seconds_count") == 4
        assert now.total("organism_worker_children") == 1
        assert now.total("organism_worker_capacity", listener="calm") == zoo.max_concurrent_handlers
        assert now.total("organism_worker_child_deaths_total") == 0
        assert {dict(labels)["listener"] for name, labels in now.values if name == "organism_worker_jobs"} == {
            *zoo.listeners
        }


async def test_what_runs_is_in_hand_until_its_turn_is_confirmed(memory: Connect, zoo: Organism, tmp_path: Path) -> None:
    metrics, log = Metrics(), tmp_path / "log"
    async with running_worker(memory, zoo, metrics=metrics) as scene:
        running = ask("slow", str(log))
        await scene.router.send(running)
        await started(log, 1)
        assert (await told(metrics)).total("organism_worker_jobs", listener="slow") == 1
        let_go(log)
        await scene.router.turn(running)
        async with asyncio.timeout(PATIENCE):
            while (await told(metrics)).total("organism_worker_jobs"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await told(metrics)).total("organism_handler_seconds_count", listener="slow") == 1


async def test_a_child_that_dies_is_counted_with_what_it_ran(memory: Connect, zoo: Organism) -> None:
    metrics = Metrics()
    async with running_worker(memory, zoo, metrics=metrics) as scene:
        assert (await scene.router.ask(ask("dies"))).outcome is Outcome.ERROR
        async with asyncio.timeout(PATIENCE):
            while (await told(metrics)).total("organism_worker_child_deaths_total") != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await told(metrics)).total("organism_handler_seconds_count", listener="dies", outcome="error") == 1
    # The children that a stop ends have not died unasked.
    assert (await told(metrics)).total("organism_worker_child_deaths_total") == 1


async def test_holds_and_calls_are_measured(memory: Connect, zoo: Organism) -> None:
    metrics = Metrics()
    async with running_worker(memory, zoo, metrics=metrics) as scene:
        assert (await scene.router.ask(ask("asks"))).outcome is Outcome.OK
        now = await told(metrics)
        assert now.total("organism_hold_seconds_count", state="granted") == 1
        assert now.total("organism_llm_call_seconds_count") == 1
        assert now.total("organism_holds_wanted") == 0
