"""What is scraped from real services adds up to what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.integration.test_research_team import STEPS
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organism_up import Up
from tests.support.organisms import renamed
from tests.support.processes import free_port, wait_until
from tests.support.scrape import Scrape, merged_total, scrape
from xml_pipeline.metrics.catalogue import CATALOGUE, Kind, Metric

COUNTS = {"gateway": 1, "router": 2, "usage": 2, "agent-worker": 1}
STUDIES = 3
LISTENERS = ("planner", "librarian", "analyst", "critic", "writer")
# Messages that handlers get: not those to `api`.
HANDLED = {name: sum(count for (_, to), count in STEPS.items() if to == name) for name in LISTENERS}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def fleet(amqp_url: str, database_url: str, organism_name: str, tmp_path: Path) -> Iterator[Fleet]:
    file = renamed(ROOT / "examples" / "research-team", organism_name, tmp_path / "organism")
    with running(Fleet(file, amqp_url, database_url, tmp_path), COUNTS) as fleet:
        yield fleet


def study(url: str, topic: str) -> None:
    body = {"to": "planner", "payload": {"topic": topic}}
    answer = httpx.post(f"{url}/api/v1/inject", json=body, headers={"Prefer": "wait=60"}, timeout=90.0)
    assert answer.raise_for_status().json()["reply"]


def scrapes(fleet: Fleet, name: str) -> list[Scrape]:
    return [scrape(service.ops_url) for service in fleet.of(name)]


async def fetch(url: str, query: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(query)
    finally:
        await connection.close()


def test_the_numbers_add_up(fleet: Fleet) -> None:
    for number in range(STUDIES):
        study(fleet.urls()[0], f"topic {number}")
    turns = STUDIES * sum(HANDLED.values())
    wait_until(
        lambda: merged_total(scrapes(fleet, "router"), "organism_turns_total") >= turns,
        timeout=30,
        what=f"{turns} turns",
    )
    gateway, routers, workers = scrapes(fleet, "gateway"), scrapes(fleet, "router"), scrapes(fleet, "agent-worker")
    for name, count in HANDLED.items():
        assert merged_total(routers, "organism_turns_total", listener=name, outcome="ok") == STUDIES * count
        assert merged_total(routers, "organism_queue_wait_seconds_count", listener=name) == STUDIES * count
        assert merged_total(workers, "organism_handler_seconds_count", listener=name, outcome="ok") == STUDIES * count
        assert merged_total(workers, "organism_worker_wait_seconds_count", listener=name) == STUDIES * count
        assert merged_total(workers, "organism_worker_capacity", listener=name) == 50
    assert merged_total(routers, "organism_turns_total") == turns
    assert merged_total(routers, "organism_router_batch_items_sum") >= turns + STUDIES
    assert merged_total(routers, "organism_dead_letters_total") == 0
    assert merged_total(gateway, "organism_injects_total", listener="planner", outcome="accepted") == STUDIES
    assert merged_total(gateway, "organism_inject_seconds_count") == STUDIES
    assert merged_total(gateway, "organism_answer_seconds_count", listener="planner", kind="response") == STUDIES
    assert merged_total(gateway, "organism_answer_seconds_sum") > 0
    the_spend_adds_up(fleet, workers)
    what_waits_is_told(fleet)
    the_catalogue_is_what_they_tell(fleet)
    nobody_tells_at_the_api(fleet)
    nothing_grows_with_threads(fleet)


def the_spend_adds_up(fleet: Fleet, workers: list[Scrape]) -> None:
    calls = 12 * STUDIES
    wait_until(
        lambda: merged_total(scrapes(fleet, "usage"), "organism_bookings_total") >= calls,
        timeout=30,
        what=f"{calls} bookings",
    )
    usage = scrapes(fleet, "usage")
    books = asyncio.run(
        fetch(
            fleet.database_url,
            "select count(*), sum(prompt_tokens) as prompt, sum(completion_tokens) as completion from usage_events",
        )
    )
    assert books[0] == calls
    assert merged_total(usage, "organism_bookings_total", kind="measured") == calls
    assert merged_total(usage, "organism_hold_replies_total", state="granted") >= calls
    assert merged_total(usage, "organism_holds_ended_total", how="settled") == calls
    assert merged_total(usage, "organism_tokens_total", kind="prompt") == books["prompt"]
    assert merged_total(usage, "organism_tokens_total", kind="completion") == books["completion"]
    assert merged_total(usage, "organism_booking_messages_sum") >= 2 * calls
    assert merged_total(workers, "organism_hold_seconds_count", state="granted") == calls
    assert merged_total(workers, "organism_llm_call_seconds_count") == calls
    # Read at most every five seconds, and the same at each instance.
    spent = books["prompt"] + books["completion"]
    wait_until(
        lambda: all(
            one.total("organism_budget_spent_tokens") == spent and one.total("organism_holds_open") == 0
            for one in scrapes(fleet, "usage")
        ),
        timeout=60,
        what=f"{spent} tokens spent at each usage service",
    )


def what_waits_is_told(fleet: Fleet) -> None:
    """A paused listener's backlog, at each router."""
    url = fleet.urls()[0]
    httpx.post(f"{url}/api/v1/agents/planner/pause").raise_for_status()
    for number in range(7):
        body = {"to": "planner", "payload": {"topic": f"later {number}"}}
        httpx.post(f"{url}/api/v1/inject", json=body, timeout=30.0).raise_for_status()

    def all_told() -> bool:
        return all(
            one.total("organism_backlog_messages", listener="planner", state="ready") == 7
            and one.total("organism_backlog_messages") == 7
            and one.total("organism_backlog_oldest_seconds", listener="planner", state="ready") > 0
            and one.total("organism_listener_paused", listener="planner") == 1
            and one.total("organism_listener_paused") == 1
            and ("organism_queue_messages", frozenset({("queue", "agent.planner")})) in one.values
            for one in scrapes(fleet, "router")
        )

    wait_until(all_told, timeout=60, what="a backlog of 7 at each router")


def the_catalogue_is_what_they_tell(fleet: Fleet) -> None:
    for service in COUNTS:
        told = scrapes(fleet, service)[0]
        ours = {name for name in told.names if name.startswith("organism_")}
        assert ours == {metric.name for metric in CATALOGUE if service in metric.services}, service
        for metric in CATALOGUE:
            if service in metric.services:
                assert told.types[_family(metric)] == metric.kind
                assert told.labels[_family(metric)] in (frozenset(metric.labels), frozenset()), metric.name
        assert told.total("organism_ready", service=service) == 1
        assert told.total("organism_alive", service=service) == 1
        assert told.total("organism_check_up", service=service, check="broker") == 1
        assert told.total("process_cpu_seconds_total") > 0


def nobody_tells_at_the_api(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.urls()[0]}/metrics").status_code == 404


def nothing_grows_with_threads(fleet: Fleet) -> None:
    """No label's value is an id: twice as many threads are no more series."""
    labels = {
        value
        for service in COUNTS
        for one in scrapes(fleet, service)
        for name, given in one.values
        if name.startswith("organism_")
        for label, value in given
        if label != "le"
    }
    assert not [value for value in labels if len(value) >= 32 and value.count("-") >= 4], labels


def _family(metric: Metric) -> str:
    return metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name


def test_an_embedded_organism_tells_of_all_four_services(tmp_path: Path, organism_name: str) -> None:
    file = renamed(ROOT / "examples" / "hello-world", organism_name, tmp_path / "organism")
    port = free_port()
    with Up(file, settings={"ORGANISM_OPS_PORT": str(port)}) as up:
        up.wait_running()
        assert up.organism("inject", "greeter", "name=Dan", "--wait", "30").returncode == 0
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: scrape(url).total("organism_turns_total") >= 3, timeout=30, what="three turns")
        told = scrape(url)
        assert {name for name in told.names if name.startswith("organism_")} == {metric.name for metric in CATALOGUE}
        for service in COUNTS:
            assert told.total("organism_ready", service=service) == 1
        assert told.total("organism_handler_seconds_count", outcome="ok") == 3
        assert told.total("organism_answer_seconds_count", listener="greeter") == 1
        assert told.total("organism_build_info", service="organism") == 1
        assert httpx.get(f"{up.url}/metrics").status_code == 404
