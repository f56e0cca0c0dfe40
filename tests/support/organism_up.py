"""`organism` as its users run it: one embedded organism, and commands to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

from tests.support.processes import end, free_port, spawn, tail, wait_until


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what would lead a command elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORGANISM_")}
    return {**kept, "COLUMNS": "160", **changes}


def organism(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "xml_pipeline", *arguments]
    return subprocess.run(
        command, env=environment(**changes), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110
    )


class Up:
    """A running `organism up`."""

    def __init__(self, file: Path, *, data: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.file = file
        self.data = data or file.parent / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = file.parent / "up.log"
        self._settings = dict(settings or {})
        self.process = self._start()

    def __enter__(self) -> Up:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.output())
        end(self.process, grace=40)

    def organism(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return organism(*arguments, ORGANISM_URL=self.url)

    def wait_running(self) -> None:
        """Return when it says that it runs."""
        wait_until(self._runs, timeout=60, what=f"organism running at {self.url}; its log: {tail(self._log)}")

    def kill(self) -> None:
        """End it as the kernel would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Start it again, on the same data."""
        self.process = self._start()

    def output(self) -> str:
        """All it has said."""
        return self._log.read_text(errors="replace")

    def _start(self) -> subprocess.Popen[bytes]:
        place = ["--file", str(self.file), "--port", str(self.port), "--data", str(self.data)]
        command = [sys.executable, "-m", "xml_pipeline", "up", *place]
        return spawn(command, env=environment(**self._settings), cwd=self.file.parent, log=self._log)

    def _runs(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"organism up ended with {self.process.returncode}: {self.output()}")
        try:
            answer = httpx.get(f"{self.url}/api/v1/organism", timeout=5.0)
        except httpx.TransportError:
            return False
        return answer.is_success and answer.json()["status"] == "running"
