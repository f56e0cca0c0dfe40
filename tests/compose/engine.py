"""Docker Compose, as a user calls it, on projects of the test's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "router", "usage", "agent-worker")
PORT = 18080
PROMETHEUS_PORT = 19090
STEP_SECONDS = 600
PLUGINS = ROOT / ".docker-plugins"
_FILES = ("--file", "docker-compose.yml", "--file", "tests/compose/override.yml")


class ComposeFailed(Exception):
    """A command of Docker's ended with an error, or what was looked for is not there; the message has what was said."""


@dataclass(frozen=True, slots=True)
class Project:
    """One `docker compose` project, for the organism in a folder."""

    name: str
    folder: Path

    @property
    def url(self) -> str:
        """Where its gateway is published."""
        return f"http://127.0.0.1:{PORT}"

    def compose(self, *words: str) -> str:
        """What `docker compose ...` printed. Raises ComposeFailed."""
        return run(
            *("docker", "compose", "--project-name", self.name, *_FILES, *words),
            ORGANISM_DIR=str(self.folder),
            ORGANISM_PUBLISH=f"127.0.0.1:{PORT}",
            PROMETHEUS_PORT=str(PROMETHEUS_PORT),
        )

    def organism(self, *words: str) -> str:
        """What the command line printed, run as the owner of tables and broker."""
        return self.compose("run", "--rm", "organism", *words)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers that run."""
        return self.compose("ps", "--quiet", service).split()

    def ended(self, service: str) -> list[int]:
        """The exit codes of its containers that do not run."""
        ids = self.compose("ps", "--all", "--quiet", "--status", "exited", service).split()
        return [int(run("docker", "inspect", "--format", "{{.State.ExitCode}}", id_)) for id_ in ids]

    def first_key(self) -> str:
        """The API key that the first start made, read as the README says."""
        return self.compose("exec", "-T", "gateway", "cat", "/run/api-key/first").strip()

    def kill(self, service: str) -> None:
        """SIGKILL the service's own process in one of its containers, as a crash does: its container starts again."""
        container = self.containers(service)[0]
        for line in run("docker", "top", container, "-o", "pid,args").splitlines()[1:]:
            if re.search(r"^\s*\d+\s+python \S*service\.py", line):
                os.kill(int(line.split()[0]), signal.SIGKILL)
                return
        raise ComposeFailed(f"no process of {service} was found in its container")

    @contextmanager
    def removed_at_the_end(self) -> Iterator[None]:
        """Take down all of it, volumes too, however this ends."""
        try:
            yield
        finally:
            self.compose("--profile", "observability", "down", "--volumes", "--timeout", "20")


def run(*command: str, **environment: str) -> str:
    """What a command printed. Raises ComposeFailed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ComposeFailed(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Whether a command is there, and ends with 0."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=STEP_SECONDS).returncode == 0
    except FileNotFoundError:
        return False
