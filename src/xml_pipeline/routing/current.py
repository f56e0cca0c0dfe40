"""What a router works with now: exchanged as a whole when the configuration changes."""

from __future__ import annotations

from dataclasses import dataclass

from xml_pipeline.message_bus.topology import Names, Topology, organism_topology
from xml_pipeline.organism.model import Organism
from xml_pipeline.routing.working import PayloadCheck


@dataclass(frozen=True, slots=True)
class Configured:
    """One version of the configuration, with what is made of it."""

    organism: Organism
    version: int
    check: PayloadCheck

    @property
    def names(self) -> Names:
        """The names on the broker."""
        return Names(self.organism.name)

    @property
    def topology(self) -> Topology:
        """What has to be on the broker."""
        return organism_topology(self.organism.name, self.organism.listeners)


@dataclass(slots=True)
class Current:
    """Holds the version in force."""

    configured: Configured
