"""What `docker compose up` needs on this machine: Compose 2, the official images, and the project's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from tests.compose.engine import PLUGINS, ROOT, run, succeeds

# RabbitMQ last: tests that begin meanwhile take another broker, or this, and not one that comes in between.
OFFICIAL = {
    "python": "python:3.13-slim",
    "postgres": "postgres:17",
    "prometheus": "prom/prometheus:v3.5.0",
    "rabbitmq": "rabbitmq:4-management",
}
_COMPOSE = (2, 24)
OWN = ("gateway", "router", "usage", "agent-worker", "organism")


def why_not() -> str | None:
    """Why nothing can be tried here; None where an engine answers and Compose 2 is there, or can be had."""
    if not succeeds("docker", "version"):
        return "no Docker engine answers here"
    if _has_compose():
        return None
    # In a folder of its own: nobody's own plugins are touched.
    os.environ["DOCKER_CONFIG"] = str(PLUGINS)
    if succeeds("bash", _script("docker-plugins")) and _has_compose():
        return None
    return "Compose 2.24 or newer is not here, and cannot be had from Debian's packages"


def _has_compose() -> bool:
    """One that knows env files which need not be there."""
    if not succeeds("docker", "compose", "version"):
        return False
    numbers = re.match(r"v?(\d+)\.(\d+)", run("docker", "compose", "version", "--short"))
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _COMPOSE


def provide_images() -> Iterator[str]:
    """Have the official images there: as they are, pulled, or made from Debian's packages. The lines to be shown."""
    for name, image in OFFICIAL.items():
        if succeeds("docker", "image", "inspect", image):
            yield f"{image}: is there"
        elif succeeds("docker", "pull", "--quiet", image):
            yield f"{image}: pulled"
        else:
            run("bash", _script("stand-in-images"), name)
            yield f"{image}: made from Debian's packages, since no registry answers"


def sizes() -> dict[str, int]:
    """The images of the services, and their sizes in megabytes."""
    return {
        name: int(run("docker", "image", "inspect", "--format", "{{.Size}}", f"xml-pipeline-{name}")) // 10**6
        for name in OWN
    }


def _script(name: str) -> str:
    return str(ROOT / "tests" / "compose" / name)
