"""The pods of deploy/kubernetes as containers of a Docker engine, one after the other, as a kubelet would start them.

No cluster: nothing of scheduling, Services, policies, probes by a kubelet or KEDA. As root, with the five images there
(`docker compose build`). `python -m tests.kubernetes`
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from tests.kubernetes.containers import NETWORK, DockerFailed, as_a_pod, docker, last_words
from tests.support import kubernetes as k8s
from tests.support.kubernetes import PLACE, SERVICES, Workload
from tests.support.pods import Pods, example_values
from tests.support.processes import SupportError, wait_until

POSTGRES, RABBITMQ = "organism-postgres-rw", "organism-rabbitmq"
JOBS, DEPLOYMENTS = k8s.jobs(), k8s.deployments()


def main() -> int:
    """0 when all of it went as it should."""
    with tempfile.TemporaryDirectory() as folder:
        started: list[str] = []
        try:
            docker("network", "create", NETWORK)
            _go_through(Path(folder), started)
        except (DockerFailed, SupportError, httpx.HTTPError, AssertionError) as error:
            print(f"failed: {error}")
            for name in started:
                print(f"--- {name}\n{last_words(name)}")
            return 1
        finally:
            docker("rm", "--force", "--volumes", *started, check=False)
            docker("network", "rm", NETWORK, check=False)
    return 0


def _go_through(folder: Path, started: list[str]) -> None:
    pods = _with_broker_and_database(folder, started)
    for container in JOBS["setup"].containers:
        words = as_a_pod(pods, JOBS["setup"], container)
        arguments = [
            one.replace("$(BROKER_MANAGEMENT)", pods.secrets["broker-admin"]["management"]) for one in container["args"]
        ]
        _timed(f"setup: {container['name']}", partial(docker, "run", "--rm", *words, container["image"], *arguments))
    key = _first_key(pods, started)
    for name in SERVICES:
        _start(pods, DEPLOYMENTS[name], started)
    for name in SERVICES:
        ready = partial(_says, name, "readiness")
        _timed(f"{name}: ready", partial(wait_until, ready, timeout=60, what=f"{name} is ready"))
        assert _says(name, "liveness"), name
        print(f"{name}: {docker('exec', _name(name), 'id', '--user')}, {_memory(name)} in use")
    print(f"answer: {_answer(key)}")
    examined = docker("exec", _name("commands"), "sh", "-c", 'organism doctor --management "$BROKER_MANAGEMENT"')
    print(f"doctor: {examined.splitlines()[-1]}")
    for name in (*SERVICES, "commands"):
        _stop(name)


def _with_broker_and_database(folder: Path, started: list[str]) -> Pods:
    password = secrets.token_hex(16)
    database = (
        "--env",
        "POSTGRES_USER=organism",
        "--env",
        f"POSTGRES_PASSWORD={password}",
        "--env",
        "POSTGRES_DB=organism",
    )
    broker = ("--env", "RABBITMQ_DEFAULT_USER=administrator", "--env", f"RABBITMQ_DEFAULT_PASS={password}")
    for name, words, image in ((POSTGRES, database, "postgres:17"), (RABBITMQ, broker, "rabbitmq:4-management")):
        started.append(name)
        docker("run", "--detach", "--name", name, "--hostname", name, "--network", NETWORK, *words, image)
    for name, check in (
        (POSTGRES, ("pg_isready", "--quiet", "--host=127.0.0.1", "--username=organism", "--dbname=organism")),
        (RABBITMQ, ("bash", "-c", "</dev/tcp/127.0.0.1/5672 && </dev/tcp/127.0.0.1/15672")),
    ):
        wait_until(partial(_succeeds, name, *check), timeout=120, what=f"{name} answers", interval=0.5)
    found, maps = example_values(
        "",
        f"amqp://administrator:{password}@{RABBITMQ}:5672/",
        f"http://administrator@{RABBITMQ}:15672",
        f"postgresql://organism:{password}@{POSTGRES}:5432/organism",
        secrets.token_hex(16),
    )
    organism = {file.name: file.read_text() for file in (PLACE / "base" / "organism").iterdir()}
    return Pods(folder, found, {**maps, "organism": organism})


def _first_key(pods: Pods, started: list[str]) -> str:
    commands = JOBS["commands"]
    [container] = commands.containers
    started.append(_name("commands"))
    words = as_a_pod(pods, commands, container)
    program, *arguments = container["command"]
    docker(
        "run", "--detach", "--name", _name("commands"), *words, "--entrypoint", program, container["image"], *arguments
    )
    return docker("exec", _name("commands"), "organism", "key", "create", "--name", "me", "--role", "admin")


def _start(pods: Pods, workload: Workload, started: list[str]) -> None:
    [container] = workload.containers
    started.append(_name(workload.name))
    docker("run", "--detach", "--name", _name(workload.name), *as_a_pod(pods, workload, container), container["image"])


def _stop(name: str) -> None:
    """SIGTERM, and SIGKILL when the time is over, as a kubelet does it, but for `preStop`."""
    limit = (DEPLOYMENTS | JOBS)[name].pod["terminationGracePeriodSeconds"]
    began = time.monotonic()
    docker("stop", "--time", str(limit), _name(name))
    status = docker("inspect", "--format", "{{.State.ExitCode}}", _name(name))
    print(f"{name}: stopped with {status} after {time.monotonic() - began:.1f} s")
    assert status == "0", f"{name} ended with {status}"


def _says(name: str, kind: str) -> bool:
    [container] = DEPLOYMENTS[name].containers
    probe = container[f"{kind}Probe"]["httpGet"]
    [port] = [one["containerPort"] for one in container["ports"] if one["name"] == probe["port"]]
    try:
        return httpx.get(f"http://{_address(name)}:{port}{probe['path']}", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _answer(key: str) -> object:
    answer = httpx.post(
        f"http://{_address('gateway')}:8080/api/v1/inject",
        json={"to": "greeter", "payload": {"name": "Dan"}},
        headers={"authorization": f"Bearer {key}", "prefer": "wait=30"},
        timeout=60,
        trust_env=False,
    )
    assert answer.is_success, answer.text
    return answer.json()["reply"]["payload"]


def _address(name: str) -> str:
    return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", _name(name))


def _memory(name: str) -> str:
    return docker("stats", "--no-stream", "--format", "{{.MemUsage}}", _name(name)).partition(" /")[0]


def _name(of: str) -> str:
    return f"{NETWORK}-{of}"


def _succeeds(container: str, *command: str) -> bool:
    try:
        docker("exec", container, *command)
    except DockerFailed:
        return False
    return True


def _timed(what: str, do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    print(f"{what} after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
