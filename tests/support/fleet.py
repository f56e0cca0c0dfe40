"""The four services as real processes: started, watched, killed and stopped by their ids."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from tests.support.processes import end, free_port, spawn, tail, wait_until

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
TWO_OF_EACH = {"gateway": 2, "router": 2, "usage": 2, "agent-worker": 2}


@dataclass(slots=True)
class Service:
    """One running service process; its output goes to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ops_port: int
    port: int | None = None

    @property
    def url(self) -> str:
        """Where a gateway answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def ops_url(self) -> str:
        """Where it says how it is; a gateway does so at `url`, too."""
        return f"http://{HOST}:{self.ops_port}"

    def says(self, path: str) -> httpx.Response | None:
        """What it answers to /livez or /readyz; None when it does not, within a second."""
        try:
            return httpx.get(f"{self.ops_url}{path}", timeout=1.0)
        except httpx.TransportError:
            return None

    @property
    def ready(self) -> bool:
        """Whether it says that it takes work."""
        answer = self.says("/readyz")
        return answer is not None and answer.is_success

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Until it takes work."""
        wait_until(lambda: self.ready, timeout=timeout, what=f"{self.name} is ready; its log: {tail(self.log)}")

    def terminate(self, timeout: float = 30.0) -> tuple[int, float]:
        """Ask it to stop; its exit status and how many seconds it took."""
        asked = time.monotonic()
        self.process.terminate()
        return self.process.wait(timeout), time.monotonic() - asked

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as the kernel's OOM killer would; a worker's children are left to notice."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Fleet:
    """Services of one organism over one broker and one database.

    `own`: by the name of a service, variables that its processes have beside those of all.
    """

    organism_file: Path
    amqp_url: str
    database_url: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def start(self, name: str, count: int = 1) -> list[Service]:
        """Start `count` processes of the service in services/<name>."""
        return [self.start_one(name) for _ in range(count)]

    def start_one(
        self,
        name: str,
        *,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable,),
        port: int | None = None,
    ) -> Service:
        """Start one with variables of its own, by a `program` that runs its script, a gateway on a given `port`."""
        log = self.folder / f"{len(self.services)}-{name}.log"
        port = port or (free_port() if name == "gateway" else None)
        command = [*program, str(ROOT / "services" / name / "main.py")]
        ops_port = free_port()
        env = {**self._environment(port, ops_port), **self.own.get(name, {}), **(environment or {})}
        service = Service(name, spawn(command, env=env, cwd=self.folder, log=log), log, ops_port, port)
        self.services.append(service)
        return service

    def of(self, name: str) -> list[Service]:
        """The processes of one service that have not ended."""
        return [service for service in self.services if service.name == name and service.alive]

    def urls(self) -> list[str]:
        """Where the gateways answer."""
        return [gateway.url for gateway in self.of("gateway")]

    def wait_running(self, timeout: float = 60.0) -> None:
        """Until every gateway says that the organism runs."""
        for url in self.urls():
            wait_until(partial(_is_running, url), timeout=timeout, what=f"organism running at {url}")

    def stop(self) -> None:
        """Ask all to stop at once, then wait for each; what does not end is killed."""
        for service in self.services:
            if service.alive:
                service.process.terminate()
        for service in self.services:
            end(service.process, grace=40.0)

    def logs(self) -> str:
        """The end of every service's log, for the message of a failed test."""
        return "\n".join(f"--- {service.log.name}\n{tail(service.log)}" for service in self.services)

    def _environment(self, port: int | None, ops_port: int) -> dict[str, str]:
        own = {
            "ORGANISM_FILE": str(self.organism_file),
            "ORGANISM_AMQP_URL": self.amqp_url,
            "ORGANISM_DATABASE_URL": self.database_url,
            "ORGANISM_OPS_PORT": str(ops_port),
        }
        if port is not None:
            own |= {"ORGANISM_HOST": HOST, "ORGANISM_PORT": str(port)}
        return {**os.environ, **own, **self.environment}


@contextmanager
def running(fleet: Fleet, counts: Mapping[str, int], *, timeout: float = 60.0) -> Iterator[Fleet]:
    """Start so many of each service, wait until the organism runs, stop them all at the end."""
    try:
        for name, count in counts.items():
            fleet.start(name, count)
        fleet.wait_running(timeout)
        yield fleet
    except BaseException:
        print(fleet.logs())
        raise
    finally:
        fleet.stop()


def _is_running(url: str) -> bool:
    try:
        answer = httpx.get(f"{url}/api/v1/organism", timeout=5.0)
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and answer.json()["status"] == "running"
