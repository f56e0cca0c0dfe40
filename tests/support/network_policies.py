"""Who may reach whom, by NetworkPolicies: as much of their rules as the manifests use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A pod, by its labels and its namespace; or an address outside."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = "organism"
    address: str | None = None


def may_reach(policies: Sequence[Policy], who: Peer, whom: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether both sides allow it."""
    out = _allowed(policies, "Egress", who, whom, port, protocol)
    return out and _allowed(policies, "Ingress", whom, who, port, protocol)


def _allowed(policies: Sequence[Policy], way: str, own: Peer, other: Peer, port: int, protocol: str) -> bool:
    """By those that select this side; where none does, everything is allowed."""
    about = [one["spec"] for one in policies if way in one["spec"]["policyTypes"] and _selects(one, own)]
    rules = [rule for spec in about for rule in spec.get(way.lower(), ())]
    return not about or any(_matches(rule, way, other, port, protocol) for rule in rules)


def _selects(policy: Policy, peer: Peer) -> bool:
    here = peer.address is None and peer.namespace == "organism"
    return here and _selected(policy["spec"]["podSelector"], peer.labels)


def _matches(rule: Policy, way: str, other: Peer, port: int, protocol: str) -> bool:
    peers = rule.get("from" if way == "Ingress" else "to")
    ports = rule.get("ports")
    return (peers is None or any(_is(peer, other) for peer in peers)) and (
        ports is None or any(one["port"] == port and one.get("protocol", "TCP") == protocol for one in ports)
    )


def _is(peer: Policy, other: Peer) -> bool:
    if "ipBlock" in peer:
        return other.address is not None and _within(peer["ipBlock"], other.address)
    if other.address is not None:
        return False
    namespace = {"kubernetes.io/metadata.name": other.namespace}
    there = _selected(peer["namespaceSelector"], namespace) if "namespaceSelector" in peer else _own(other)
    return there and _selected(peer.get("podSelector", {}), other.labels)


def _own(other: Peer) -> bool:
    """A peer without a namespace is one of the policy's own."""
    return other.namespace == "organism"


def _within(block: Policy, address: str) -> bool:
    found = ip_address(address)
    return found in ip_network(block["cidr"]) and not any(found in ip_network(one) for one in block.get("except", ()))


def _selected(selector: Policy, labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= dict(labels).items()
    return wanted and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", ())
    )
