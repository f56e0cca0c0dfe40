"""How KEDA scales agent-workers, and what Prometheus finds of pods."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser as promql
import pytest
import yaml

from tests.support import kubernetes as k8s
from tests.support.kubernetes import PLACE, ROOT, SERVICES, Manifest
from xml_pipeline.metrics.catalogue import BACKLOG, CATALOGUE, PAUSED, Metric
from xml_pipeline.organism.model import Organism
from xml_pipeline.storage.observing import STATES

WAYS = ("prometheus", "postgresql")
THRESHOLDS = {"prometheus": "threshold", "postgresql": "targetQueryValue"}
# What makes a worker of use: a message that one could take now, or has.
COUNTED = {"accepted", "ready", "out"}


def scaled(way: str) -> Manifest:
    [found] = [one for one in k8s.read(PLACE / "keda" / way / "scaledobject.yaml") if one["kind"] == "ScaledObject"]
    return dict(found["spec"])


def trigger(way: str) -> Manifest:
    [only] = scaled(way)["triggers"]
    assert only["type"] == way
    return dict(only["metadata"])


QUERY = trigger("prometheus")["query"]


def walked() -> list[promql.Expr]:
    found: list[promql.Expr] = []
    promql.walk(promql.parse(QUERY), found.append)
    return found


def test_every_metric_and_label_is_told() -> None:
    told = {metric.name: metric for metric in CATALOGUE}
    asked = [node for node in walked() if isinstance(node, promql.VectorSelector)]
    assert {node.name for node in asked} == {BACKLOG.name, PAUSED.name}
    namespace = k8s.kustomizations()[PLACE / "site"]["namespace"]
    for node in asked:
        metric: Metric = told[str(node.name)]
        matchers = {matcher.name: matcher.value for matcher in node.matchers.matchers}
        assert matchers.pop("namespace") == namespace
        assert set(matchers) <= set(metric.labels)
    [states] = re.findall(r'state=~"([a-z|]+)"', QUERY)
    assert set(states.split("|")) == COUNTED
    assert set(STATES) >= COUNTED


def test_what_all_routers_tell_alike_is_not_summed() -> None:
    over = [node for node in walked() if isinstance(node, promql.AggregateExpr)]
    direct = [node for node in over if isinstance(node.expr, promql.VectorSelector)]
    assert len(direct) == 2
    assert {str(node.op) for node in direct} == {"max"}


@pytest.mark.parametrize("way", WAYS)
def test_it_scales_the_agent_worker_by_what_one_runs_at_once(way: str) -> None:
    assert scaled(way)["scaleTargetRef"] == {"name": "agent-worker"}
    assert trigger(way)[THRESHOLDS[way]] == str(Organism("any", {}).max_concurrent_handlers)
    assert 1 <= scaled(way)["minReplicaCount"] < scaled(way)["maxReplicaCount"]


def test_the_two_ways_differ_in_their_triggers_alone() -> None:
    first, second = ({**scaled(way), "triggers": None} for way in WAYS)
    assert first == second


@pytest.mark.parametrize("way", WAYS)
def test_kubernetes_knows_how_it_goes_up_and_down(way: str) -> None:
    behavior = scaled(way)["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "keda"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "agent-worker"},
            "maxReplicas": scaled(way)["maxReplicaCount"],
            "behavior": behavior,
        },
    }
    kubernetes_validate.validate(autoscaler, kubernetes_validate.latest_version(), strict=True)
    grace = k8s.deployments()["agent-worker"].pod["terminationGracePeriodSeconds"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 2 * grace
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0


def test_the_password_is_that_of_the_user() -> None:
    [authentication] = k8s.manifests("TriggerAuthentication")
    [spec] = k8s.read(PLACE / "keda" / "postgresql" / "scaledobject.yaml")
    assert spec["spec"]["triggers"][0]["authenticationRef"] == {"name": authentication["metadata"]["name"]}
    assert [one["parameter"] for one in authentication["spec"]["secretTargetRef"]] == ["password"]
    made = re.search(r"^create role (\w+) ", (PLACE / "keda" / "postgresql" / "user.sql").read_text(), re.MULTILINE)
    assert made is not None
    assert trigger("postgresql")["userName"] == made[1]


# What Prometheus makes of it


PROMTOOL = shutil.which("promtool")


def series(metric: str, value: str, **labels: str) -> dict[str, str]:
    named = ", ".join(f'{name}="{text}"' for name, text in {"namespace": "organism", **labels}.items())
    return {"series": f"{metric}{{{named}}}", "values": value}


def told_by(instance: str, counts: dict[tuple[str, str], int], paused: set[str]) -> list[dict[str, str]]:
    listeners = {listener for listener, _ in counts} - {"other"}
    return [
        *(
            series(BACKLOG.name, f"{count}+0x4", instance=instance, listener=listener, state=state)
            for (listener, state), count in counts.items()
        ),
        *(
            series(PAUSED.name, f"{int(name in paused)}+0x4", instance=instance, listener=name)
            for name in sorted(listeners)
        ),
    ]


COUNTS = {
    ("reader", "accepted"): 1,
    ("reader", "ready"): 30,
    ("reader", "out"): 40,
    ("reader", "waiting"): 1000,
    ("reader", "retrying"): 1000,
    ("reader", "parked"): 1000,
    ("writer", "ready"): 50,
    ("sleeper", "ready"): 5000,
    ("other", "out"): 7000,
}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    ("counts", "paused", "value"),
    [
        (COUNTS, {"sleeper"}, 71),
        (COUNTS, {"sleeper", "reader"}, 50),
        (COUNTS, {"reader", "writer", "sleeper"}, 0),
        ({}, set(), None),
    ],
    ids=["busiest", "one paused", "all paused", "nobody tells"],
)
def test_prometheus_counts_it(
    tmp_path: Path, counts: dict[tuple[str, str], int], paused: set[str], value: int | None
) -> None:
    expected: list[dict[str, Any]] = [] if value is None else [{"labels": "{}", "value": value}]
    told = [one for instance in ("router-1", "router-2") for one in told_by(instance, counts, paused)]
    asked = {"expr": QUERY, "eval_time": "1m", "exp_samples": expected}
    file = tmp_path / "keda.test.yml"
    file.write_text(yaml.safe_dump({"tests": [{"interval": "15s", "input_series": told, "promql_expr_test": [asked]}]}))
    run = subprocess.run([str(PROMTOOL), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


# What Prometheus finds


SCRAPE = yaml.safe_load((PLACE / "monitoring" / "prometheus.yml").read_text())


def relabelled(labels: dict[str, str]) -> dict[str, str] | None:
    """As Prometheus does it, for the actions that are used; None: it is dropped."""
    for rule in SCRAPE["scrape_configs"][0]["relabel_configs"]:
        value = ";".join(labels.get(name, "") for name in rule["source_labels"])
        fits = re.fullmatch(rule.get("regex", "(.*)"), value) is not None
        action = rule.get("action", "replace")
        if (action == "keep" and not fits) or (action == "drop" and fits):
            return None
        if action == "replace" and fits:
            labels = {**labels, rule["target_label"]: value}
    return labels


def pod(name: str, port: str, phase: str = "Running") -> dict[str, str]:
    """What Prometheus' discovery knows of a pod of ours."""
    template = k8s.workloads()[name].manifest["spec"]["template"]["metadata"]
    marked = {"annotation": template.get("annotations", {}), "label": template["labels"]}
    return {
        "__meta_kubernetes_namespace": "organism",
        "__meta_kubernetes_pod_name": f"{name}-7d9f",
        "__meta_kubernetes_pod_phase": phase,
        "__meta_kubernetes_pod_container_port_name": port,
        **{
            f"__meta_kubernetes_pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', key)}": value
            for kind, marks in marked.items()
            for key, value in marks.items()
        },
    }


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_scraped_as_the_alerts_name_it(name: str) -> None:
    found = relabelled(pod(name, "ops"))
    assert found is not None
    assert {key: value for key, value in found.items() if not key.startswith("__meta")} == {
        "__metrics_path__": "/metrics",
        "job": name,
        "namespace": "organism",
        "instance": f"{name}-7d9f",
    }
    assert relabelled(pod(name, "ops", "Succeeded")) is None
    assert re.search(rf'job=~"[a-z|-]*\b{name}\b', (ROOT / "deploy" / "observability" / "alerts.yml").read_text())


def test_nothing_else_is_scraped() -> None:
    assert relabelled(pod("gateway", "http")) is None
    assert relabelled(pod("setup", "")) is None
