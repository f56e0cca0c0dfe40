"""The section `budgets` of an organism.yaml, read into values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from xml_pipeline.organism.budgets import UNLIMITED, Budgets, TagBudgets, Webhook
from xml_pipeline.organism.document import Document, Node

AT_LIMIT = ("deny", "park", "kill")
_KEYS = ("organism", "tags", "agents", "at_limit", "thresholds", "webhook")
_WEBHOOK = ("url", "secret_env")
_WORD = "unlimited"
_DEFAULT = "default"
_FULL = 100


def read_budgets(document: Document, node: Node | None) -> Budgets:
    """Read the section; what is wrong is noted in the document."""
    if node is None:
        return Budgets()
    found = document.mapping(node, "budgets", _KEYS)
    read = {key: _READ[key](document, value) for key, value in found.items()}
    return Budgets(**{key: value for key, value in read.items() if value is not None})


def read_amount(document: Document, node: Node, what: str) -> int | None:
    """Read a number of tokens, or the word `unlimited`."""
    if isinstance(node, yaml.ScalarNode) and node.value == _WORD:
        return UNLIMITED
    return document.integer(node, what, minimum=1, maximum=UNLIMITED)


def _amounts(document: Document, node: Node, what: str) -> dict[str, int]:
    read = {
        str(key.value): read_amount(document, value, f"{what} {key.value!r}")
        for key, value in _pairs(document, node, what)
    }
    return {key: amount for key, amount in read.items() if amount is not None}


def _pairs(document: Document, node: Node, what: str) -> list[tuple[Node, Node]]:
    if isinstance(node, yaml.MappingNode):
        document.mapping(node, what, [str(key.value) for key, _ in node.value])
        return list(node.value)
    document.fault(node, f"{what} must be a mapping of names to tokens")
    return []


def _tags(document: Document, node: Node) -> dict[str, TagBudgets]:
    return {
        str(key.value): _tag(document, value, f"the tag {key.value!r}") for key, value in _pairs(document, node, "tags")
    }


def _tag(document: Document, node: Node, what: str) -> TagBudgets:
    if isinstance(node, yaml.ScalarNode):
        return TagBudgets(default=read_amount(document, node, what) or UNLIMITED)
    amounts = _amounts(document, node, what)
    return TagBudgets(default=amounts.pop(_DEFAULT, UNLIMITED), values=amounts)


def _at_limit(document: Document, node: Node) -> str | None:
    value = document.text(node, "at_limit")
    if value is not None and value not in AT_LIMIT:
        document.fault(node, f"at_limit must be one of {', '.join(AT_LIMIT)}")
        return None
    return value


def _thresholds(document: Document, node: Node) -> tuple[int, ...]:
    read = (
        document.integer(item, "a threshold", minimum=1, maximum=_FULL)
        for item in document.sequence(node, "thresholds")
    )
    return tuple(sorted({percent for percent in read if percent is not None}))


def _webhook(document: Document, node: Node) -> Webhook | None:
    found = document.mapping(node, "webhook", _WEBHOOK)
    read = {key: document.text(value, key) for key, value in found.items()}
    for key in _WEBHOOK:
        if key not in found:
            document.fault(node, f"the webhook has no {key!r}")
    url, secret_env = read.get("url"), read.get("secret_env")
    if url is None or secret_env is None:
        return None
    if not url.startswith(("http://", "https://")):
        document.fault(found["url"], "url must begin with http:// or https://")
    return Webhook(url, secret_env)


_READ: dict[str, Callable[[Document, Node], Any]] = {
    "organism": lambda document, node: read_amount(document, node, "organism"),
    "tags": _tags,
    "agents": lambda document, node: _amounts(document, node, "agents"),
    "at_limit": _at_limit,
    "thresholds": _thresholds,
    "webhook": _webhook,
}
