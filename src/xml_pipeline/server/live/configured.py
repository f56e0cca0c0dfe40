"""The configuration that a gateway works with, swapped as a whole when a new version is in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.organism.catalog import Catalog
from xml_pipeline.organism.model import Listener, Organism
from xml_pipeline.payload import xml_to_json
from xml_pipeline.server.contracts import InputContract, contract_of

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Configured:
    """One version of the configuration, with what follows from it."""

    organism: Organism
    version: int
    contracts: Mapping[str, InputContract]
    catalog: Catalog

    @classmethod
    def of(cls, organism: Organism, version: int) -> Configured:
        """Compile what the API needs of an organism."""
        contracts = {name: contract_of(name, listener) for name, listener in organism.listeners.items()}
        return cls(organism, version, contracts, Catalog(organism))

    def payload_json(self, tag: str, payload: bytes) -> dict[str, Any]:
        """A payload as a JSON object: by its class where that is known and fits, else element by element."""
        payload_type = self.catalog.find(tag)
        if payload_type is not None:
            try:
                return payload_type.to_json(payload_type.from_xml(payload))
            except XmlPipelineError:
                # From before a reload that changed the class.
                log.debug("payload.no_longer_fits", tag=tag)
        return xml_to_json(payload)


class Current:
    """The configuration in force."""

    def __init__(self, configured: Configured) -> None:
        self.value = configured

    @property
    def organism(self) -> Organism:
        """The organism as it is configured now."""
        return self.value.organism


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed between two configurations, by listener."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    updated: tuple[str, ...]


def difference(before: Organism, after: Organism) -> Difference:
    """Compare by what the file and the schemas say: classes and functions are new objects after each load."""
    old, new = before.listeners, after.listeners
    return Difference(
        added=tuple(name for name in new if name not in old),
        removed=tuple(name for name in old if name not in new),
        updated=tuple(name for name in new if name in old and _fingerprint(new[name]) != _fingerprint(old[name])),
    )


def _fingerprint(listener: Listener) -> tuple[object, ...]:
    return (
        listener.description,
        f"{listener.payload_class.__module__}.{listener.payload_class.__qualname__}",
        f"{listener.handler.__module__}.{listener.handler.__qualname__}",
        listener.root_tag,
        listener.schema,
        listener.is_agent,
        listener.peers,
        listener.prompt,
        tuple((response.root_tag, response.xsd) for response in listener.responses),
        listener.accepts_errors,
        listener.accepts_huh,
        listener.timeout,
        listener.retry,
        listener.window,
        listener.model,
        listener.max_backlog,
    )
