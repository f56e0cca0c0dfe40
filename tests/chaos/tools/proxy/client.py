"""Starting a proxy and telling it what to do, from a program that waits for each answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import ValidationError

from tests.chaos.tools.proxy.faults import (
    COMMAND,
    STATS,
    Blackhole,
    Command,
    Cut,
    CutCommits,
    Delay,
    PassThrough,
    Refuse,
    Report,
    Stats,
    SwallowConfirms,
    Wire,
)
from tests.support.fleet import ROOT
from tests.support.processes import SupportError, end, free_port, spawn, tail, wait_until

_ANSWER_SECONDS = 10.0
_WIRES: Final[dict[str, tuple[Wire, int]]] = {
    "amqp": ("amqp", 5672),
    "postgresql": ("postgresql", 5432),
    "http": ("bytes", 80),
}


class Proxy:
    """A proxy before the server of a URL, in a process of its own that ends with the thread that started it.

    `listen_in` and `connect_in` name network namespaces; it listens on `host` at a free port.
    """

    def __init__(
        self, url: str, *, host: str = "127.0.0.1", listen_in: str | None = None, connect_in: str | None = None
    ) -> None:
        self._behind = urlsplit(url)
        self._wire, usual_port = _WIRES[self._behind.scheme]
        self.host = host
        self.port = free_port()
        self._listen = _place(host, self.port, listen_in)
        self._target = _place(self._behind.hostname or "127.0.0.1", self._behind.port or usual_port, connect_in)
        self._folder = Path(tempfile.mkdtemp(prefix="xml-pipeline-proxy-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of the server, by way of the proxy."""
        user = self._behind.netloc.rpartition("@")[0]
        netloc = f"{user}@{self.host}:{self.port}" if user else f"{self.host}:{self.port}"
        return urlunsplit(self._behind._replace(netloc=netloc))

    @property
    def pid(self) -> int:
        """The process id of the proxy, which has been started."""
        if self._process is None:
            raise SupportError("the proxy has not been started")
        return self._process.pid

    def start(self) -> None:
        """Start the proxy, and return when it takes connections."""
        command = [sys.executable, "-m", "tests.chaos.tools.proxy", "--listen", self._listen, "--target", self._target]
        command += ["--control", str(self._control), "--wire", self._wire]
        self._process = spawn(command, env=os.environ, cwd=ROOT, log=self._log)
        try:
            wait_until(self._answers, timeout=30, what="the proxy takes connections")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the proxy; its connections are reset."""
        if self._process is not None:
            end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pass_through(self) -> None:
        """End every fault; what was held goes on."""
        self._tell(PassThrough())

    def blackhole(self) -> None:
        """Keep connections open and let nothing pass; accept new ones and never answer."""
        self._tell(Blackhole())

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        self._tell(Refuse())

    def cut(self) -> None:
        """Reset every connection, once."""
        self._tell(Cut())

    def delay(self, seconds: float) -> None:
        """Let every byte be late by so many seconds, each way."""
        self._tell(Delay(seconds))

    def swallow_confirms(self, *, count: int | None = None, seconds: float | None = None) -> None:
        """Drop a broker's publisher confirms, and reset all connections after so many or so long.

        With neither, they are dropped until another fault is set, and nothing is reset.
        """
        self._tell(SwallowConfirms(count, seconds))

    def cut_commits(self, *, every: int = 1, moment: Literal["before", "after"] = "after") -> None:
        """Reset the connection of every so many-th COMMIT.

        `after`: once the server has committed, without its answer. `before`: the COMMIT does not arrive.
        """
        self._tell(CutCommits(every, moment))

    def stats(self) -> Stats:
        """The counters since the start."""
        return self._tell(Report())

    @property
    def _control(self) -> Path:
        return self._folder / "control"

    @property
    def _log(self) -> Path:
        return self._folder / "output.log"

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise SupportError(f"the proxy ended while starting:\n{tail(self._log)}")
        with contextlib.suppress(OSError):
            self._send(Report())
            return True
        return False

    def _tell(self, command: Command) -> Stats:
        try:
            answer = self._send(command)
            return STATS.validate_json(answer)
        except (OSError, ValidationError) as error:
            raise SupportError(f"the proxy does not do {command.name}: {error}\n{tail(self._log)}") from error

    def _send(self, command: Command) -> bytes:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(_ANSWER_SECONDS)
            control.connect(str(self._control))
            control.sendall(COMMAND.dump_json(command) + b"\n")
            with control.makefile("rb") as answer:
                return answer.read()


def _place(host: str, port: int, namespace: str | None) -> str:
    return f"{host}:{port}@{namespace}" if namespace else f"{host}:{port}"
