"""An organism whose handlers end when the test says so."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from tests.support.processes import wait_until
from xml_pipeline.envelope.codec import encode_assignment
from xml_pipeline.envelope.model import Assignment, Envelope, Kind
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import Names

_ORGANISM = """
organism: {{name: {name}, port: 8080}}
listeners:
  - {{name: gated, payload_class: gated.Ask, response_class: gated.Told, handler: gated.wait, description: Waits}}
  - {{name: blocked, payload_class: gated.Ask, response_class: gated.Told, handler: gated.block, description: Blocks}}
"""
_MODULE = """
import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from xml_pipeline.worker.handler_api import HandlerResponse

HERE = Path(__file__).parent


@dataclass
class Ask:
    text: str


@dataclass
class Told:
    text: str


async def wait(payload: Ask, metadata: object) -> HandlerResponse:
    with (HERE / "started").open("a") as started:
        started.write(payload.text + "\\n")
    while not (HERE / f"open-{payload.text}").exists():
        await asyncio.sleep(0.01)
    return HandlerResponse.respond(Told(payload.text))


async def block(payload: Ask, metadata: object) -> HandlerResponse:
    with (HERE / "started").open("a") as started:
        started.write(payload.text + "\\n")
    time.sleep(60)
    return HandlerResponse.respond(Told(payload.text))
"""


class Gated:
    """Its files, and what its handlers did."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.names = Names(name)
        self.file = folder / "organism.yaml"
        self.file.write_text(_ORGANISM.format(name=name))
        (folder / "gated.py").write_text(_MODULE)

    def started(self) -> list[str]:
        """The texts of all runs that have begun, in order."""
        log = self.folder / "started"
        return log.read_text().split() if log.exists() else []

    def wait_started(self, count: int) -> None:
        """Until so many runs have begun."""
        wait_until(lambda: len(self.started()) >= count, timeout=30, what=f"{count} handlers run")

    def open(self, text: str) -> None:
        """Let the runs with this text end."""
        (self.folder / f"open-{text}").touch()

    def assignment(self, text: str, listener: str = "gated") -> Assignment:
        """A message for a listener, as a router would send it."""
        tag = f"{listener}.ask"
        payload = f"<{tag}><text>{text}</text></{tag}>".encode()
        envelope = Envelope("api", listener, uuid4(), payload)
        return Assignment(uuid4(), 1, Kind.REQUEST, uuid4(), 1, 60.0, 0, (), envelope)

    def sent(self, assignment: Assignment) -> Outgoing:
        """On its way to a worker."""
        queue = self.names.agent(assignment.envelope.to_id)
        headers: dict[str, str | int] = {"message-id": str(assignment.message_id), "attempt": assignment.attempt}
        return Outgoing("", queue, encode_assignment(assignment), headers)
