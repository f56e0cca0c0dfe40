"""What all runs stand on: a RabbitMQ and a PostgreSQL of their own, which faults may break, and organisms to run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import apt
from tests.support.broker import Broker, start_broker
from tests.support.fleet import ROOT
from tests.support.organisms import renamed
from tests.support.postgres import OwnDatabases
from tests.support.rabbitmq_node import RabbitMQNode, find_binary
from xml_pipeline.storage.schema import migrate

_RESEARCH_TEAM = ROOT / "examples" / "research-team"
_TROUPE = Path(__file__).parent / "organism"
_PATIENT = "    timeout: 10\n    retry: {attempts: 50, backoff: 0.1, max_backoff: 1}\n"
_LLM = "llm: {provider: scripted, script: troupe.answer, timeout: 5}\n"


@dataclass(frozen=True, slots=True)
class Ground:
    """The broker and the database server. What they hold survives whatever a fault does, as their disks do."""

    broker: Broker
    databases: OwnDatabases

    @property
    def node(self) -> RabbitMQNode:
        """The broker's process and its control."""
        node = self.broker.node
        if not isinstance(node, RabbitMQNode):
            raise TypeError("faults need a rabbitmq-server of their own: install the package rabbitmq-server")
        return node


@contextmanager
def prepared() -> Iterator[Ground]:
    """Start both, and end them. Raises SupportError where there is no rabbitmq-server and none can be installed."""
    if find_binary() is None and apt.can_install():
        apt.install("rabbitmq-server")
    broker = start_broker(own=True)
    try:
        databases = OwnDatabases(durable=True, migrate=migrate)
        try:
            yield Ground(broker, databases)
        finally:
            databases.close()
    finally:
        broker.close()


def make_organism(name: str, folder: Path) -> Path:
    """The research team, patient enough to see any outage through, with the troupe beside it; its organism.yaml."""
    file = renamed(_RESEARCH_TEAM, name, folder)
    shutil.copy(_TROUPE / "troupe.py", folder)
    text = re.sub(r"(?m)^llm: .*\n", _LLM, file.read_text(), count=1)
    text = re.sub(r"(?m)^(    agent: true\n)", rf"\1{_PATIENT}", text)
    text = text.replace("max_tokens_per_thread: 100000", "max_tokens_per_thread: 1000000")
    file.write_text(text + (_TROUPE / "listeners.yaml").read_text())
    return file


def queues_of(organism: str) -> list[str]:
    """The work queues, all of which are empty when everything is done."""
    listeners = ("planner", "librarian", "analyst", "critic", "writer", "talker", "echo", "slow", "poison", "blocker")
    names = ("ingress", "usage", "dead", *(f"agent.{name}" for name in listeners))
    return [f"{organism}.{name}" for name in names]
