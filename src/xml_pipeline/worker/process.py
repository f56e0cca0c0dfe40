"""One child process, as its parent sees it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from xml_pipeline.worker.frames import BadFrame, Frame, FrameChannel
from xml_pipeline.worker.marker import Marker, make_marker_file
from xml_pipeline.worker.wire import FromChild, ToChild, from_child, to_child

log = structlog.get_logger(__name__)

# Broker, database and collector are the parent's business: what is not in the environment cannot be read from it.
_NOT_FOR_CHILDREN = (
    "ORGANISM_AMQP_URL",
    "ORGANISM_DATABASE_URL",
    # The keys of whoever collects traces; the parent tells the spans of its children.
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
)
_STDERR = 2


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in _NOT_FOR_CHILDREN}


class ChildProcess:
    """Started by `start`; `on_message` gets what it says, `on_lost` is called once, when its connection is gone."""

    def __init__(
        self,
        on_message: Callable[[FromChild], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_message = on_message
        self._channel = FrameChannel(self._on_frames, on_lost)
        self._process: subprocess.Popen[bytes] | None = None
        self.marker: Marker | None = None

    async def start(self) -> None:
        """Start the process; raises OSError."""
        ours, theirs = socket.socketpair()
        marker = make_marker_file()
        try:
            self.marker = Marker(marker)
            self._process = _spawn(theirs.fileno(), marker)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(marker)
        ours.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)

    @property
    def pid(self) -> int:
        """The process id, 0 before the start."""
        return self._process.pid if self._process else 0

    def send(self, message: ToChild) -> None:
        """Send soon."""
        self._channel.send(to_child(message))

    def disconnect(self) -> None:
        """Close the connection: a child that works exits at that."""
        self._channel.flush()
        self._channel.abort("the worker closed the connection")

    def kill(self) -> None:
        """Kill it with what it has started: it leads a group of its own, whose id is ours until it is waited for."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def ended(self) -> bool:
        """Whether the process is gone; reaps it."""
        return self._process is not None and self._process.poll() is not None

    @property
    def exit_text(self) -> str:
        """How it ended."""
        status = self._process.poll() if self._process else None
        if status is None:
            return "no exit status"
        if status >= 0:
            return f"exit status {status}"
        return f"signal {signal.Signals(-status).name}" if -status in set(signal.Signals) else f"signal {-status}"

    async def wait(self, seconds: float) -> bool:
        """Whether it has ended within `seconds`."""
        limit = asyncio.get_running_loop().time() + seconds
        while not self.ended and asyncio.get_running_loop().time() < limit:  # noqa: ASYNC110 no event tells of it
            await asyncio.sleep(0.005)
        return self.ended

    def close(self) -> None:
        """Free what belongs to a process that has ended."""
        if self.marker is not None:
            self.marker.close()
            self.marker = None

    def _on_frames(self, frames: list[Frame]) -> None:
        try:
            for frame in frames:
                self._on_message(from_child(frame))
        except BadFrame as error:
            log.warning("child_spoke_nonsense", pid=self.pid, error=str(error))
            self._channel.abort(f"it sent what is no message: {error}")


def _spawn(connection: int, marker: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "xml_pipeline.worker.child", str(connection), str(marker), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603 our own module
        command,
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,
        pass_fds=(connection, marker),
        env=_environment(os.environ),
        start_new_session=True,
    )
