"""The sections of an organism.yaml, read into values; what they name is resolved later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xml_pipeline.organism.budget_section import read_amount, read_budgets
from xml_pipeline.organism.budgets import Budgets
from xml_pipeline.organism.document import Document, Node
from xml_pipeline.organism.model import RETRIED, Limits, LlmConfig, Price, Retry
from xml_pipeline.organism.names import listener_name_fault, organism_name_fault

Read = Callable[[Document, Node, str], Any]
SCHEDULES = ("breadth-first", "depth-first")
PROVIDERS = ("scripted", "openai")
# With what goes along with an envelope it must fit into what a broker carries.
MAX_ENVELOPE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reference:
    """A dotted name in the file, like `module.Class`, and where it stands."""

    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class ListenerSection:
    """One listener as it is written; what was left out or wrong is not in `values`."""

    node: Node
    name: str
    values: Mapping[str, Any]
    payload_class: Reference | None
    handler: Reference | None
    responses: tuple[Reference, ...] = ()
    peers: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True)
class Sections:
    """A whole file as it is written."""

    organism: Mapping[str, Any]
    llm: LlmConfig
    script: Reference | None
    prices: tuple[Price, ...]
    budgets: Budgets = field(default_factory=Budgets)
    listeners: tuple[ListenerSection, ...] = field(default=())


def read_sections(document: Document) -> Sections:
    """Read all sections; what is wrong is noted in the document."""
    top = document.mapping(document.root, "the file", ("organism", "listeners", "llm", "prices", "budgets"))
    for key in ("organism", "listeners"):
        if key not in top and document.root.tag.endswith(":map"):
            document.fault(document.root, f"the section {key!r} is missing")
    llm = _values(document, top.get("llm"), "llm", _LLM)
    script = document.mapping(top["llm"], "llm", tuple(_LLM)).get("script") if llm.get("script") else None
    return Sections(
        organism=_organism(document, top.get("organism")),
        llm=LlmConfig(**llm),
        script=None if script is None else Reference(llm["script"], script),
        prices=_prices(document, top.get("prices")),
        budgets=read_budgets(document, top.get("budgets")),
        listeners=_listeners(document, top.get("listeners")),
    )


def _organism(document: Document, node: Node | None) -> Mapping[str, Any]:
    values = _values(document, node, "organism", _ORGANISM)
    if node is not None and "name" not in values:
        _missing(document, node, "organism", "name")
    return values


def _listeners(document: Document, node: Node | None) -> tuple[ListenerSection, ...]:
    if node is None:
        return ()
    items = document.sequence(node, "listeners")
    if not items and not document.faults:
        document.fault(node, "there must be at least one listener")
    return tuple(_listener(document, item) for item in items)


def _listener(document: Document, node: Node) -> ListenerSection:
    values = _values(document, node, "a listener", _LISTENER)
    for key in ("name", "payload_class", "handler"):
        if key not in values:
            _missing(document, node, "the listener", key)
    return ListenerSection(
        node=node,
        name=values.pop("name", ""),
        payload_class=values.pop("payload_class", None),
        handler=values.pop("handler", None),
        responses=values.pop("response_class", ()),
        peers=values.pop("peers", ()),
        values=values,
    )


def _missing(document: Document, node: Node, what: str, key: str) -> None:
    """Note a missing key, unless it is there and was found wrong already."""
    keys = [str(name.value) for name, _ in node.value] if node.tag.endswith(":map") else [key]
    if key not in keys:
        document.fault(node, f"{what} has no {key!r}")


def _values(document: Document, node: Node | None, what: str, keys: Mapping[str, Read]) -> dict[str, Any]:
    if node is None:
        return {}
    found = document.mapping(node, what, tuple(keys))
    read = {key: keys[key](document, value, key) for key, value in found.items()}
    return {key: value for key, value in read.items() if value is not None}


def _prices(document: Document, node: Node | None) -> tuple[Price, ...]:
    items = [] if node is None else document.sequence(node, "prices")
    prices = []
    for item in items:
        values = _values(document, item, "a price", _PRICE)
        missing = [key for key in _PRICE_NEEDS if key not in values]
        for key in missing:
            _missing(document, item, "the price", key)
        if not missing:
            prices.append(Price(**values))
    return tuple(prices)


def _text(document: Document, node: Node, what: str) -> str | None:
    return document.text(node, what)


def _boolean(document: Document, node: Node, what: str) -> bool | None:
    return document.boolean(node, what)


def _number(document: Document, node: Node, what: str) -> float | None:
    return document.number(node, what)


def _positive(document: Document, node: Node, what: str) -> float | None:
    return document.number(node, what, above=0)


def _share(document: Document, node: Node, what: str) -> float | None:
    return document.number(node, what, maximum=1)


def _count(document: Document, node: Node, what: str) -> int | None:
    return document.integer(node, what, minimum=1)


def _envelope_bytes(document: Document, node: Node, what: str) -> int | None:
    return document.integer(node, what, minimum=1, maximum=MAX_ENVELOPE_BYTES)


def _port(document: Document, node: Node, what: str) -> int | None:
    return document.integer(node, what, minimum=0, maximum=65535)


def _one_of(choices: tuple[str, ...]) -> Read:
    def read(document: Document, node: Node, what: str) -> str | None:
        value = document.text(node, what)
        if value is None or value in choices:
            return value
        document.fault(node, f"{what} must be one of {', '.join(choices)}")
        return None

    return read


def _some_of(choices: tuple[str, ...]) -> Read:
    one = _one_of(choices)

    def read(document: Document, node: Node, what: str) -> tuple[str, ...]:
        found = (one(document, item, f"each of {what}") for _, item in document.texts(node, what))
        return tuple(dict.fromkeys(text for text in found if text is not None))

    return read


def _checked_name(check: Callable[[str], str | None]) -> Read:
    def read(document: Document, node: Node, what: str) -> str | None:
        name = document.text(node, what)
        found = None if name is None else check(name)
        if found is not None:
            document.fault(node, found)
        return name

    return read


def _reference(document: Document, node: Node, what: str) -> Reference | None:
    name = document.text(node, what)
    if name is None:
        return None
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        document.fault(node, f"{what} must be written as module.Name, not {name!r}")
        return None
    return Reference(name, node)


def _references(document: Document, node: Node, what: str) -> tuple[Reference, ...]:
    read = (_reference(document, item, what) for _, item in document.texts(node, what))
    return tuple(reference for reference in read if reference is not None)


def _names(document: Document, node: Node, what: str) -> tuple[Reference, ...]:
    return tuple(Reference(name, item) for name, item in document.texts(node, what))


def _section(make: Callable[..., object], keys: Mapping[str, Read]) -> Read:
    def read(document: Document, node: Node, what: str) -> object:
        return make(**_values(document, node, what, keys))

    return read


def _options(document: Document, node: Node, what: str) -> Mapping[str, Any]:
    return document.free(node, what)


_RETRY: Mapping[str, Read] = {
    "attempts": _count,
    "backoff": _number,
    "max_backoff": _number,
    "jitter": _share,
    "on": _some_of(RETRIED),
}
_LIMITS: Mapping[str, Read] = {
    "max_hops": _count,
    "max_messages_per_thread": _count,
    "max_outputs_per_turn": _count,
    "max_envelope_bytes": _envelope_bytes,
    "max_backlog": _count,
    "max_backlog_per_listener": _count,
    "max_backlog_per_thread": _count,
}
_ORGANISM: Mapping[str, Read] = {
    "name": _checked_name(organism_name_fault),
    "port": _port,
    "max_tokens_per_thread": read_amount,
    "thread_scheduling": _one_of(SCHEDULES),
    "max_concurrent_pipelines": _count,
    "max_concurrent_handlers": _count,
    "limits": _section(Limits, _LIMITS),
}
_LISTENER: Mapping[str, Read] = {
    "name": _checked_name(listener_name_fault),
    "payload_class": _reference,
    "handler": _reference,
    "response_class": _references,
    "description": _text,
    "agent": _boolean,
    "peers": _names,
    "prompt": _text,
    "timeout": _positive,
    "retry": _section(Retry, _RETRY),
    "window": _count,
    "model": _text,
    "max_backlog": _count,
}
_LLM: Mapping[str, Read] = {
    "provider": _one_of(PROVIDERS),
    "model": _text,
    "base_url": _text,
    "api_key_env": _text,
    "timeout": _positive,
    "max_completion_tokens": _count,
    "script": lambda document, node, what: getattr(_reference(document, node, what), "name", None),
    "options": _options,
}
_PRICE_NEEDS = ("model", "prompt", "completion")
_PRICE: Mapping[str, Read] = {
    "model": _text,
    "prompt": _number,
    "completion": _number,
    "cache_read": _number,
    "cache_write": _number,
    "reasoning": _number,
    "audio_prompt": _number,
    "audio_completion": _number,
    "image_prompt": _number,
    "image_completion": _number,
}
