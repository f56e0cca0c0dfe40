"""`organism doctor` on the users of both, and as a command."""

from __future__ import annotations

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from tests.integration.doctor.asking import Findings, failures, findings, patient, readers
from tests.support.broker import Broker
from tests.support.least_rights import PASSWORD, Users, make_users, run_organism, with_user
from xml_pipeline.doctor.model import State


@pytest.fixture
def organism_file(tmp_path: Path, organism_name: str) -> Path:
    file = tmp_path / "organism.yaml"
    file.write_text(
        f"organism: {{name: {organism_name}}}\n"
        "listeners: [{name: a, payload_class: said.Said, handler: said.handle, description: Takes what is said}]\n"
    )
    (tmp_path / "said.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass Said:\n    text: str\n\nasync def handle(p, m): ...\n"
    )
    return file


@pytest.fixture
def users(managed_broker: Broker, database_url: str, organism_file: Path) -> Users:
    way = ("--management", managed_broker.node.management_url)
    return make_users(organism_file, managed_broker.amqp_url, database_url, way)


@pytest.mark.usefixtures("months")
async def test_users_as_they_are_made_and_as_somebody_changed_them(
    managed_broker: Broker, users: Users, organism_name: str
) -> None:
    async def look() -> Findings:
        return await findings(
            **patient(managed_broker, organism_name),
            management_url=managed_broker.node.management_url,
            database_url=users.database_url,
            prefix=users.prefix,
        )

    node = managed_broker.node
    async with readers(managed_broker.amqp_url, organism_name):
        found = await look()
        rights = {check: finding for check, finding in found.items() if "-rights" in check}
        assert {finding.state for finding in rights.values()} == {State.OK}, rights
        assert len(rights) == 8
        await asyncio.to_thread(node.control, "set_permissions", f"{users.prefix}agent-worker", ".*", ".*", ".*")
        await asyncio.to_thread(node.control, "clear_topic_permissions", f"{users.prefix}usage")
        await asyncio.to_thread(node.control, "set_user_tags", f"{users.prefix}gateway", "administrator")
        await asyncio.to_thread(node.control, "clear_permissions", f"{users.prefix}router")
        found = await look()
        await asyncio.to_thread(node.control, "set_user_tags", f"{users.prefix}gateway", "policymaker", "monitoring")
        tagged = (await look())["broker-rights-gateway"]
    assert failures(found) == {f"broker-rights-{service}" for service in ("agent-worker", "usage", "gateway", "router")}
    assert "topic write is .*, not" in found["broker-rights-usage"].said
    assert tagged.state is State.FAILED
    assert "policymaker" in tagged.said


def test_a_user_who_reads_one_listeners_assignments_alone(
    managed_broker: Broker, database_url: str, organism_file: Path
) -> None:
    prefix = f"n{secrets.token_hex(3)}-"
    environment = {
        "ORGANISM_AMQP_URL": managed_broker.amqp_url,
        "ORGANISM_DATABASE_URL": database_url,
        "ORGANISM_FILE": str(organism_file),
        "ORGANISM_AGENT_WORKER_BROKER_PASSWORD": PASSWORD,
    }
    narrow = ("--prefix", prefix, "--service", "agent-worker", "--listener", "a")
    management = ("--management", managed_broker.node.management_url)
    done = run_organism("broker-setup", *narrow, *management, environment=environment)
    assert done.returncode == 0, done.stderr
    done = run_organism("doctor", "--json", *narrow, *management, environment=environment)
    said = {one["check"]: one["state"] for one in json.loads(done.stdout)["findings"] if "-rights-" in one["check"]}
    assert said == {"broker-rights-agent-worker": "ok"}
    for option, unknown, told in (
        ("--service", "worker", "there is no user for worker"),
        ("--listener", "nobody", "there is no listener nobody"),
    ):
        done = run_organism("doctor", option, unknown, environment=environment)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_the_command_line(managed_broker: Broker, database_url: str, organism_file: Path, organism_name: str) -> None:
    urls = {"ORGANISM_AMQP_URL": managed_broker.amqp_url, "ORGANISM_DATABASE_URL": database_url}
    environment = {**urls, "ORGANISM_FILE": str(organism_file)}
    done = run_organism("doctor", environment=environment)
    assert done.returncode == 1
    assert "failed   broker-topology" in done.stdout
    assert "do: run 'organism broker-setup', or start a router" in done.stdout
    assert "guest" not in done.stdout
    done = run_organism("doctor", "--json", environment=environment)
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["healthy"] is False
    failed = [finding for finding in said["findings"] if finding["state"] == "failed"]
    assert all(finding["fix"] for finding in failed)
    assert organism_name in next(finding["said"] for finding in failed if finding["check"] == "broker-topology")


@pytest.mark.usefixtures("months")
def test_the_command_line_on_what_is_well_and_on_nothing(database_url: str, tmp_path: Path) -> None:
    nothing = {"ORGANISM_AMQP_URL": "", "ORGANISM_DATABASE_URL": ""}
    done = run_organism("doctor", environment={**nothing, "ORGANISM_DATABASE_URL": database_url})
    assert done.returncode == 0, done.stdout
    assert "ORGANISM_AMQP_URL is not set" in done.stdout
    done = run_organism("doctor", environment=nothing)
    assert done.returncode == 2
    assert "neither ORGANISM_AMQP_URL nor ORGANISM_DATABASE_URL is set" in done.stderr
    missing = {**nothing, "ORGANISM_AMQP_URL": "amqp://127.0.0.1/", "ORGANISM_FILE": str(tmp_path / "none.yaml")}
    assert run_organism("doctor", environment=missing).returncode == 2


def test_passwords_are_not_told(managed_broker: Broker, database_url: str, organism_file: Path) -> None:
    gone, file = f"somebody:{PASSWORD}@127.0.0.1:1", {"ORGANISM_FILE": str(organism_file)}
    urls = {"ORGANISM_AMQP_URL": f"amqp://{gone}/", "ORGANISM_DATABASE_URL": f"postgresql://{gone}/nothing"}
    wrong = {
        "ORGANISM_AMQP_URL": with_user(managed_broker.amqp_url, "nobody"),
        "ORGANISM_DATABASE_URL": with_user(database_url, "nobody"),
    }
    management = with_user(managed_broker.node.management_url, "nobody")
    unreadable = f"http://somebody:{PASSWORD}@[bad"
    for environment, address in ((urls, f"http://{gone}"), (wrong, management)):
        done = run_organism("doctor", "--management", address, environment={**environment, **file})
        assert done.returncode == 1, done.stderr
        told = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")}
        assert told == {"broker", "broker-management", "database"}
        assert PASSWORD not in done.stdout + done.stderr
    done = run_organism("doctor", "--management", unreadable, environment={**urls, **file})
    assert done.returncode == 2
    assert PASSWORD not in done.stdout + done.stderr
