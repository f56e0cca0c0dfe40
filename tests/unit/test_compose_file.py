"""What docker-compose.yml and the Dockerfile say, without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("gateway", "router", "usage", "agent-worker")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(loaded["services"])


@pytest.mark.parametrize("name", [*SERVICES, "migrate", "organism"])
def test_a_service_may_nothing_that_it_does_not_need(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    written = {volume for volume in service["volumes"] if not volume.endswith(":ro")}
    assert written == ({"api-key:/run/api-key"} if name == "migrate" else set())


@pytest.mark.parametrize("name", SERVICES)
def test_a_stop_stops_and_nobody_starts_before_the_schema(services: dict[str, Any], name: str) -> None:
    assert services[name]["restart"] == "on-failure"
    assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


def test_only_the_gateway_is_published_and_on_loopback(services: dict[str, Any]) -> None:
    published = {
        name: service["ports"] for name, service in services.items() if "ports" in service and "profiles" not in service
    }
    assert published == {"gateway": ["${ORGANISM_PUBLISH:-127.0.0.1:8080}:8080"]}


def test_the_agent_worker_gets_nothing_of_the_database_and_does_not_reach_it(services: dict[str, Any]) -> None:
    assert not re.search("postgres|database|api-key", str({**services["agent-worker"], "depends_on": None}))
    assert services["postgres"]["networks"] == ["database"]
    beside = {name for name, service in services.items() if "workers" in service.get("networks", [])}
    assert services["agent-worker"]["networks"] == ["workers"]
    assert beside == {"agent-worker", "rabbitmq", "prometheus"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_a_user_of_its_own_and_is_shown_no_owners_password(services: dict[str, Any], name: str) -> None:
    environment = services[name]["environment"]
    kinds = ["amqp"] if name == "agent-worker" else ["amqp", "database"]
    for kind, folder in zip(kinds, ("broker", "database"), strict=False):
        assert f"//{name}@" in environment[f"ORGANISM_{kind.upper()}_URL"]
        assert environment[f"ORGANISM_{kind.upper()}_PASSWORD_FILE"] == f"/run/{folder}-users/{name}"
    assert not re.search("postgres-secret|rabbitmq-secret", str(services[name]))


def test_passwords_are_readable_by_the_user_whose_they_are(services: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    users = dict(re.findall(r"([a-z-]+):(1000\d)", dockerfile))
    made = dict(re.findall(r"([a-z-]+):(1000\d)", str(services["secrets"]["command"])))
    assert made == {name: users[name] for name in SERVICES}
    assert services["migrate"]["group_add"] == [users["organism"]]
    assert f":{users['organism']} 0440" in str(services["secrets"]["command"])


def test_no_password_is_written_down(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            assert "PASS" not in variable or variable.endswith("_FILE"), (name, variable)
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), (name, variable)


def test_each_image_is_a_target_of_the_dockerfile_with_a_user_of_its_own(services: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n((?:(?!FROM ).*\n)*)", dockerfile, flags=re.MULTILINE))
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    assert targets == {*SERVICES, "organism"}
    users = {re.search(r"^USER (\d+):", stages[target], flags=re.MULTILINE)[1] for target in targets}  # type: ignore[index]
    assert len(users) == len(targets)
    assert "0" not in users


def test_compose_reads_it() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("Docker's Compose 2 is not installed")
    done = subprocess.run([docker, "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
