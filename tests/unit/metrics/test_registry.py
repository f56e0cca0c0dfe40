"""Counting, reading, telling."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.support.scrape import parsed, told
from xml_pipeline.health.health import Health
from xml_pipeline.health.ops import create_ops_app
from xml_pipeline.metrics import catalogue
from xml_pipeline.metrics.health import tell_health
from xml_pipeline.metrics.labels import NONE, OTHER, FewNames, known
from xml_pipeline.metrics.reading import Reading
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.metrics.route import metrics_route
from xml_pipeline.metrics.snapshot import INTERVAL, REST, STALE, Snapshot


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_services_of_one_process_share_a_counter() -> None:
    metrics = Metrics()
    metrics.counter(catalogue.DEAD_LETTERS).labels("a", "lost").inc()
    metrics.counter(catalogue.DEAD_LETTERS).labels("a", "lost").inc(2)
    assert (await told(metrics)).total("organism_dead_letters_total", listener="a") == 3


async def test_two_processes_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.counter(catalogue.CHILD_DEATHS).inc()
    assert (await told(second)).total("organism_worker_child_deaths_total") == 0


def test_a_metric_is_of_one_kind() -> None:
    metrics = Metrics()
    metrics.counter(catalogue.TURNS)
    with pytest.raises(TypeError, match="organism_turns_total is a Counter"):
        metrics.histogram(catalogue.TURNS)


async def test_who_reads_one_gauge_in_two_places_tells_of_it_once() -> None:
    metrics = Metrics()
    metrics.read((catalogue.QUEUE,), lambda: [Reading(catalogue.QUEUE, ("ingress",), 1)])
    metrics.read((catalogue.QUEUE,), lambda: [Reading(catalogue.QUEUE, ("usage",), 2)])
    assert (await told(metrics)).total("organism_queue_messages") == 3


async def test_a_metric_without_a_value_is_named_all_the_same() -> None:
    metrics = Metrics()
    metrics.read((catalogue.BUDGET_LIMIT,), list)
    assert "organism_budget_limit_tokens" in (await told(metrics)).names


def test_the_ops_port_answers_in_the_format_that_is_asked_for() -> None:
    metrics = Metrics()
    metrics.counter(catalogue.CHILD_DEATHS).inc()
    client = TestClient(create_ops_app(Health(), metrics_route(metrics)))
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert parsed(plain.text).total("organism_worker_child_deaths_total") == 1
    wanted = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    modern = client.get("/metrics", headers={"accept": wanted})
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    families = text_string_to_metric_families(modern.text)  # type: ignore[no-untyped-call]
    assert "organism_worker_child_deaths" in {family.name for family in families}
    assert client.get("/livez").status_code == 200


async def test_health_is_told_in_the_words_of_readyz() -> None:
    metrics, health, up = Metrics(), Health(), {"broker": True}
    health.condition("broker", lambda: up["broker"])
    health.condition("webhook-secret", lambda: False, needed=False)
    tell_health(metrics, health, "router")
    health.started()
    before = await told(metrics)
    assert before.total("organism_ready", service="router") == 1
    assert before.total("organism_check_up", service="router", check="broker") == 1
    assert before.total("organism_check_up", service="router", check="webhook-secret") == 0
    up["broker"] = False
    after = await told(metrics)
    assert after.total("organism_ready", service="router") == 0
    assert after.total("organism_alive", service="router") == 1
    assert after.total("organism_check_up", service="router", check="broker") == 0


async def test_a_loop_that_ended_is_told_of() -> None:
    metrics, health = Metrics(), Health()
    tell_health(metrics, health, "usage")
    health.started()

    async def nothing() -> None:
        return None

    await health.loop("sweep", nothing)
    one = await told(metrics)
    assert one.total("organism_alive", service="usage") == 0
    assert one.values["organism_check_up", frozenset({("service", "usage"), ("check", "sweep")})] == 0


async def test_parts_are_told_in_place_of_the_whole() -> None:
    metrics, health = Metrics(), Health()
    health.part("router").started()
    health.part("usage")
    tell_health(metrics, health, "organism")
    one = await told(metrics)
    assert one.total("organism_ready", service="router") == 1
    assert one.total("organism_ready", service="usage") == 0
    assert ("organism_ready", frozenset({("service", "organism")})) not in one.values


class Source:
    """Something to be asked, that counts how often it is."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked = 0
        self.takes = 0.0
        self.error: Exception | None = None

    async def __call__(self) -> list[Reading]:
        self.asked += 1
        await asyncio.sleep(0)
        self.clock.now += self.takes
        if self.error is not None:
            raise self.error
        return [Reading(catalogue.HOLDS_OPEN, (), self.asked)]


async def test_a_snapshot_is_asked_for_no_oftener_than_it_is_good() -> None:
    clock = Clock()
    source = Source(clock)
    snapshot = Snapshot("books", source, clock=clock)
    await asyncio.gather(*(snapshot.refresh() for _ in range(10)))
    assert source.asked == 1
    clock.now += INTERVAL
    await snapshot.refresh()
    assert source.asked == 2


async def test_what_takes_long_is_asked_for_seldom() -> None:
    clock = Clock()
    source = Source(clock)
    source.takes = 1.5
    snapshot = Snapshot("books", source, clock=clock)
    await snapshot.refresh()
    clock.now += REST * 1.5 - 1.5 - 0.1
    await snapshot.refresh()
    assert source.asked == 1
    clock.now += 0.2
    await snapshot.refresh()
    assert source.asked == 2


async def test_what_cannot_be_read_grows_old_and_is_told_no_longer() -> None:
    clock = Clock()
    source = Source(clock)
    metrics = Metrics()
    with metrics.read_snapshot((catalogue.HOLDS_OPEN,), Snapshot("books", source, clock=clock)):
        assert (await told(metrics)).total("organism_holds_open") == 1
        source.error = OSError("gone")
        clock.now += STALE - 1
        then = await told(metrics)
        assert then.total("organism_holds_open") == 1
        assert then.total("organism_snapshot_age_seconds", snapshot="books") == STALE - 1
        clock.now += 2
        stale = await told(metrics)
        assert ("organism_holds_open", frozenset[tuple[str, str]]()) not in stale.values
        assert stale.total("organism_snapshot_age_seconds") == STALE + 1
        source.error = None
        clock.now += INTERVAL
        assert (await told(metrics)).total("organism_holds_open") == source.asked
    assert "organism_snapshot_age_seconds" in (await told(metrics)).names
    assert (await told(metrics)).total("organism_snapshot_age_seconds") == 0


async def test_a_source_that_says_nothing_keeps_nobody_waiting() -> None:
    async def silent() -> list[Reading]:
        await asyncio.Event().wait()
        return []

    metrics = Metrics()
    with metrics.read_snapshot((), Snapshot("silent", silent, patience=0.01)):
        async with asyncio.timeout(20):
            assert (await told(metrics)).types


@given(st.lists(st.text(), max_size=300), st.integers(1, 20))
def test_names_that_anybody_may_give_stay_few(names: list[str], most: int) -> None:
    few = FewNames(most)
    labels = [few.label(name) for name in names]
    assert len(set(labels) - {OTHER}) <= most
    assert all(label in (name, OTHER) for label, name in zip(labels, names, strict=True))
    assert labels[:1] == names[:1]


def test_a_name_that_is_not_configured_is_other() -> None:
    assert [known(name, {"a"}) for name in ("a", "b", None)] == ["a", OTHER, NONE]
