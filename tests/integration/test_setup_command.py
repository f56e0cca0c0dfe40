"""`organism setup`: one command makes all that services need, and does it again without harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.broker import Broker
from tests.support.fleet import ROOT
from tests.support.least_rights import PASSWORD, run_organism

SERVICES = ("gateway", "router", "usage", "agent-worker")

pytestmark = pytest.mark.timeout(180)


def folder_of_passwords(place: Path) -> Path:
    place.mkdir()
    for service in SERVICES:
        (place / service).write_text(PASSWORD)
    return place


def test_it_makes_everything_and_can_be_repeated(
    managed_broker: Broker, empty_database_url: str, tmp_path: Path
) -> None:
    key = tmp_path / "first"
    management = ("--management", managed_broker.node.management_url)
    command = (
        *("setup", "--file", str(ROOT / "examples" / "hello-world" / "organism.yaml"), *management),
        *("--database-passwords", str(folder_of_passwords(tmp_path / "database"))),
        *("--broker-passwords", str(folder_of_passwords(tmp_path / "broker"))),
        *("--first-key", str(key), "--prefix", "setup-"),
    )
    environment = {"ORGANISM_AMQP_URL": managed_broker.amqp_url, "ORGANISM_DATABASE_URL": empty_database_url}
    first = run_organism(*command, environment=environment)
    assert (first.returncode, first.stderr) == (0, ""), first.stderr
    assert key.stat().st_mode & 0o777 == 0o640
    secret = key.read_text()
    again = run_organism(*command, environment=environment)
    assert again.returncode == 0, again.stderr
    assert "a key is in force already" in again.stdout
    assert key.read_text() == secret
