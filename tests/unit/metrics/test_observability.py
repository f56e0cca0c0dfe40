"""Dashboards and alerts name what there is; each alert says what to do; each metric is looked at somewhere."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.support.metric_docs import FILE, MARK, made
from tests.support.scrape import parsed
from xml_pipeline.metrics.catalogue import CATALOGUE, Kind
from xml_pipeline.metrics.registry import Metrics

ROOT = Path(__file__).resolve().parents[3]
PLACE = ROOT / "deploy" / "observability"
DASHBOARDS = sorted((PLACE / "grafana" / "dashboards").glob("*.json"))
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((PLACE / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
# What Prometheus adds to what it scrapes, and what it tells itself.
SCRAPED = {"job", "instance"}
SUFFIXES = {"_bucket": {"le"}, "_sum": set[str](), "_count": set[str]()}


def told() -> dict[str, set[str]]:
    """The labels of every series that there can be, by name."""
    library = parsed(asyncio.run(Metrics().told())[0].decode())
    names: dict[str, set[str]] = {"up": set(), **{name: set(library.labels[_base(name)]) for name in library.names}}
    for metric in CATALOGUE:
        if metric.kind is Kind.HISTOGRAM:
            names |= {metric.name + suffix: {*metric.labels, *more} for suffix, more in SUFFIXES.items()}
        else:
            names[metric.name] = set(metric.labels)
    return names


def _base(name: str) -> str:
    return name.removesuffix("_total")


def expressions() -> Iterator[tuple[str, str]]:
    """Where, and what is asked for."""
    for alert in ALERTS:
        yield alert["alert"], alert["expr"]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.name}: {panel['title']}", target["expr"]


def nodes(expression: str) -> list[promql.Expr]:
    found: list[promql.Expr] = []
    promql.walk(promql.parse(expression.replace("$__rate_interval", "5m")), found.append)
    return found


def selectors(expression: str) -> list[promql.VectorSelector]:
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]


EXPRESSIONS = list(expressions())
TOLD = told()


@pytest.mark.parametrize("expression", [one for _, one in EXPRESSIONS], ids=[where for where, _ in EXPRESSIONS])
def test_what_is_asked_for_is_told(expression: str) -> None:
    asked = selectors(expression)
    assert asked
    for selector in asked:
        assert selector.name in TOLD
        labels = TOLD[selector.name] | SCRAPED
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels
    every = set[str]().union(*(TOLD[str(selector.name)] for selector in asked)) | SCRAPED
    for node in nodes(expression):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= every


def test_a_name_that_nobody_tells_is_found() -> None:
    [selector] = selectors("sum by (listener) (rate(organism_turn_total[$__rate_interval]))")
    assert selector.name not in TOLD


def test_every_metric_is_looked_at() -> None:
    asked = {str(selector.name) for _, expression in EXPRESSIONS for selector in selectors(expression)}
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} | asked
    assert {metric.name for metric in CATALOGUE} <= bare


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_panels_name_only_labels_that_are_left(file: Path) -> None:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            outermost = promql.parse(target["expr"].replace("$__rate_interval", "5m"))
            while isinstance(outermost, promql.BinaryExpr):
                outermost = outermost.rhs if isinstance(outermost.lhs, promql.NumberLiteral) else outermost.lhs
            aggregates = [node for node in nodes(outermost.prettify()) if isinstance(node, promql.AggregateExpr)]
            left = set(aggregates[0].modifier.labels if aggregates[0].modifier else ()) if aggregates else None
            asked = set[str]().union(*(TOLD[str(one.name)] for one in selectors(target["expr"])))
            assert named <= (asked | SCRAPED if left is None else left), panel["title"]


def test_shared_metrics_are_never_summed_up_over_instances() -> None:
    shared = {metric.name for metric in CATALOGUE if metric.shared}
    for where, expression in EXPRESSIONS:
        for node in nodes(expression):
            if isinstance(node, promql.AggregateExpr) and isinstance(node.expr, promql.VectorSelector):
                assert node.expr.name not in shared or str(node.op) in ("max", "min"), where


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    assert alert["annotations"]["summary"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    paragraph = re.search(rf"^### {name}\n(.+)", OPERATIONS, re.MULTILINE)
    assert paragraph is not None
    assert len(paragraph[1]) > 60


def test_no_paragraph_is_about_an_alert_that_is_gone() -> None:
    assert set(re.findall(r"^### (Organism\w+)$", OPERATIONS, re.MULTILINE)) == {alert["alert"] for alert in ALERTS}


def test_the_docs_are_made_from_the_catalogue() -> None:
    written = FILE.read_text().partition(MARK)[2]
    assert written == f"\n{made()}", "run python -m tests.support.metric_docs"


def test_names_are_as_prometheus_wants_them() -> None:
    for metric in CATALOGUE:
        assert re.fullmatch(r"organism_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.buckets) is (metric.kind is Kind.HISTOGRAM)
        assert not {"thread", "message", "call", "id", "instance", "job"} & set(metric.labels)
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)


def test_what_the_containers_mount_is_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    observing = [service for service in services.values() if service.get("profiles") == ["observability"]]
    assert len(observing) == 2
    for service in observing:
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (ROOT / volume.partition(":")[0]).exists(), volume
    scraped = yaml.safe_load((PLACE / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["dns_sd_configs"][0]["names"] == ["gateway", "router", "usage", "agent-worker"]


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    file = Path(__file__).with_name("alerts.test.yml")
    run = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
