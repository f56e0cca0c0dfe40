"""A child of an agent-worker: runs handlers, and speaks only to its parent, over the socket it was started with."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

import structlog

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.llm.providers import make_provider
from xml_pipeline.logs import configure_logging
from xml_pipeline.organism.load import parse_organism
from xml_pipeline.organism.model import Organism
from xml_pipeline.worker.child_ledger import LedgerAsks
from xml_pipeline.worker.execution import Executor
from xml_pipeline.worker.frames import Frame, FrameChannel
from xml_pipeline.worker.marker import Marker
from xml_pipeline.worker.stepping import Stepper
from xml_pipeline.worker.wire import (
    Cancel,
    Failed,
    FromChild,
    LedgerAnswer,
    Ping,
    Ready,
    Run,
    Start,
    ToChild,
    from_parent,
    to_parent,
)
from xml_pipeline.worker.words import describe

_PR_SET_PDEATHSIG = 1


class Child:
    """One child process."""

    def __init__(self, marker: Marker) -> None:
        self._channel = FrameChannel(self._on_frames, self._on_lost)
        self._stepper = Stepper(marker)
        self._asks = LedgerAsks(self._send)
        self._executor: Executor | None = None

    async def serve(self, connection: socket.socket) -> None:
        """Serve until the parent closes the connection."""
        loop = asyncio.get_running_loop()
        self._stepper.install(loop)
        await loop.create_unix_connection(lambda: self._channel, sock=connection)
        await loop.create_future()

    def _send(self, message: FromChild) -> None:
        self._channel.send(to_parent(message))

    def _on_lost(self, reason: str) -> None:
        # Handlers and their threads may go on for ever; nobody is left to tell.
        os._exit(0)

    def _on_frames(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._on_message(from_parent(frame))

    def _on_message(self, message: ToChild) -> None:
        match message:
            case Run() if self._executor is not None:
                self._executor.start(message)
            case Cancel(run) if self._executor is not None:
                self._executor.cancel(run)
            case LedgerAnswer():
                self._asks.answered(message)
            case Ping():
                self._send(message)
            case Start():
                self._load(message)
            case _:
                pass

    def _load(self, start: Start) -> None:
        try:
            organism = _load_organism(start)
            provider = make_provider(organism.llm)
        except Exception as error:  # importing an organism runs its modules
            self._send(Failed(str(error) if isinstance(error, XmlPipelineError) else describe(error)))
            return
        structlog.contextvars.bind_contextvars(organism=organism.name)
        self._executor = Executor(organism, provider, self._stepper, self._asks, self._send)
        self._send(Ready(tuple(organism.listeners), organism.max_concurrent_handlers))


def _load_organism(start: Start) -> Organism:
    folder = str(Path(start.folder).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return parse_organism(start.text, Path(start.folder))


def _die_with_parent(parent: int) -> None:
    """A child whose loop is blocked would not see its parent go."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _configure_logging() -> None:
    level, style = (os.environ.get(f"ORGANISM_LOG_{name}") for name in ("LEVEL", "FORMAT"))
    configure_logging(level or "info", style=style or "json")


def _run(child: Child, connection: socket.socket) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(child.serve(connection))
        return
    uvloop.run(child.serve(connection))


def main() -> None:
    """Take the socket and the marker from the parent, and serve."""
    connection, marker, parent = (int(argument) for argument in sys.argv[1:4])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent(parent)
    os.set_inheritable(connection, False)
    _configure_logging()
    child = Child(Marker(marker))
    os.close(marker)
    _run(child, socket.socket(fileno=connection))


if __name__ == "__main__":
    main()
