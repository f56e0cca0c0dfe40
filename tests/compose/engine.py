"""Docker Compose, as a user calls it, on a project of the test's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "organism-compose-test"
PORT = 18080
STEP_SECONDS = 600
_OFFICIAL = {"python": "python:3.13-slim", "postgres": "postgres:17", "rabbitmq": "rabbitmq:4-management"}


class ComposeFailed(Exception):
    """A command of Docker's ended with an error; the message has what it said."""


def reachable() -> bool:
    """Whether a Docker engine answers, and Compose 2 is there."""
    return _succeeds("docker", "version") and _succeeds("docker", "compose", "version")


def provide_images() -> list[str]:
    """Have the official images there: as they are, pulled, or made from Debian's packages. The lines to be shown."""
    said = []
    for name, image in _OFFICIAL.items():
        if _succeeds("docker", "image", "inspect", image):
            said.append(f"{image}: is there")
        elif _succeeds("docker", "pull", "--quiet", image):
            said.append(f"{image}: pulled")
        else:
            run("bash", str(ROOT / "tests" / "compose" / "stand-in-images"), name)
            said.append(f"{image}: made from Debian's packages, since no registry answers")
    return said


def compose(*words: str) -> str:
    """What `docker compose ...` printed. Raises ComposeFailed."""
    files = ("--file", "docker-compose.yml", "--file", "tests/compose/override.yml")
    return run("docker", "compose", "--project-name", PROJECT, *files, *words, ORGANISM_PUBLISH=f"127.0.0.1:{PORT}")


def run(*command: str, **environment: str) -> str:
    """What a command printed. Raises ComposeFailed."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ComposeFailed(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def containers(service: str) -> list[str]:
    """The ids of a service's containers that run."""
    return compose("ps", "--quiet", service).split()


def kill_process_of(service: str) -> None:
    """SIGKILL the service's own process in one of its containers, as a crash does: its container starts again."""
    container = containers(service)[0]
    for line in run("docker", "top", container, "-o", "pid,args").splitlines()[1:]:
        if re.search(r"^\s*\d+\s+python \S*service\.py", line):
            os.kill(int(line.split()[0]), signal.SIGKILL)
            return
    raise ComposeFailed(f"no process of {service} was found in its container")


def sizes() -> dict[str, int]:
    """The images of the services, and their sizes in megabytes."""
    names = [f"xml-pipeline-{name}" for name in ("gateway", "router", "usage", "agent-worker", "organism")]
    return {name: int(run("docker", "image", "inspect", "--format", "{{.Size}}", name)) // 10**6 for name in names}


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, **more}


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=STEP_SECONDS).returncode == 0
    except FileNotFoundError:
        return False
