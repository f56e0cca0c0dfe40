"""Who reaches whom on Kubernetes, by the network policies of deploy/kubernetes."""

from __future__ import annotations

import itertools

import pytest

from tests.support import kubernetes as k8s
from tests.support.kubernetes import SERVICES
from tests.support.network_policies import Peer, may_reach

POLICIES = k8s.manifests("NetworkPolicy")
WORKLOADS = {name: Peer(workload.labels) for name, workload in k8s.workloads().items()}
# As the operators label what they run.
BROKER = Peer({"app.kubernetes.io/name": "organism-rabbitmq", "app.kubernetes.io/component": "rabbitmq"})
DATABASE = Peer({"cnpg.io/cluster": "organism-postgres"})
NAMES = Peer({"k8s-app": "kube-dns"}, "kube-system")
PROMETHEUS, KEDA = Peer(namespace="monitoring"), Peer(namespace="keda")
STRANGER, NEIGHBOUR = Peer(namespace="elsewhere"), Peer({"app.kubernetes.io/name": "something-else"})
CLIENT, PROVIDER = Peer(address="203.0.113.7"), Peer(address="198.51.100.9")


OTHERS = {"a stranger": STRANGER, "a neighbour": NEIGHBOUR, "a client": CLIENT}


@pytest.mark.parametrize("who", [*OTHERS, *WORKLOADS])
def test_only_the_gateways_api_is_reached_and_by_none_of_ours(who: str) -> None:
    for name, port in itertools.product(WORKLOADS, (22, 80, 5672, 8080, 9100)):
        wanted = who in OTHERS and (name, port) == ("gateway", 8080)
        assert may_reach(POLICIES, {**OTHERS, **WORKLOADS}[who], WORKLOADS[name], port) is wanted, (name, port)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_first_policy_allows_nothing(name: str) -> None:
    [nothing] = [one for one in POLICIES if one["metadata"]["name"] == "nothing"]
    for other in (*OTHERS.values(), BROKER, DATABASE, NAMES, PROMETHEUS):
        assert not may_reach([nothing], WORKLOADS[name], other, 443)
        assert not may_reach([nothing], other, WORKLOADS[name], 8080)


@pytest.mark.parametrize("name", SERVICES)
def test_prometheus_scrapes_and_nothing_else(name: str) -> None:
    assert may_reach(POLICIES, PROMETHEUS, WORKLOADS[name], 9100)
    assert may_reach(POLICIES, PROMETHEUS, WORKLOADS[name], 8080) is (name == "gateway")
    assert not may_reach(POLICIES, KEDA, WORKLOADS[name], 9100)


@pytest.mark.parametrize("name", WORKLOADS)
def test_everybody_but_the_agent_worker_reaches_the_database(name: str) -> None:
    assert may_reach(POLICIES, WORKLOADS[name], DATABASE, 5432) is (name != "agent-worker")
    assert not may_reach(POLICIES, WORKLOADS[name], DATABASE, 8000)
    for address in ("10.0.3.4", "172.20.0.9", "192.168.1.5", "198.51.100.9", "fd00::5"):
        assert not may_reach(POLICIES, WORKLOADS[name], Peer(address=address), 5432)


@pytest.mark.parametrize("name", WORKLOADS)
def test_everybody_reaches_the_broker_and_those_who_set_up_its_management(name: str) -> None:
    assert may_reach(POLICIES, WORKLOADS[name], BROKER, 5672)
    assert may_reach(POLICIES, WORKLOADS[name], BROKER, 15672) is (name in ("setup", "commands"))


@pytest.mark.parametrize("name", WORKLOADS)
def test_everybody_asks_for_names(name: str) -> None:
    for cache in (NAMES, Peer(address="169.254.20.10")):
        assert may_reach(POLICIES, WORKLOADS[name], cache, 53, "UDP")
        assert may_reach(POLICIES, WORKLOADS[name], cache, 53)
    assert not may_reach(POLICIES, WORKLOADS[name], STRANGER, 53, "UDP")


@pytest.mark.parametrize("name", WORKLOADS)
def test_who_asks_models_or_tells_webhooks_gets_out_and_not_into_the_cluster(name: str) -> None:
    outside = name in ("agent-worker", "usage")
    assert may_reach(POLICIES, WORKLOADS[name], PROVIDER, 443) is outside
    assert may_reach(POLICIES, WORKLOADS[name], Peer(address="2001:db8::9"), 443) is outside
    assert not may_reach(POLICIES, WORKLOADS[name], PROVIDER, 80)
    for address in ("10.96.0.1", "169.254.169.254", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fd00::1"):
        assert not may_reach(POLICIES, WORKLOADS[name], Peer(address=address), 443), address
    assert not may_reach(POLICIES, WORKLOADS[name], STRANGER, 443)


def test_what_is_not_the_organisms_is_left_alone() -> None:
    assert may_reach(POLICIES, STRANGER, BROKER, 5672)
    assert may_reach(POLICIES, NEIGHBOUR, DATABASE, 5432)
