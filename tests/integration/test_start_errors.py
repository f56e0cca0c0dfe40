"""A process that cannot start says why in one clear line, and its exit status tells it too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.organism_up import environment, organism

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "hello-world" / "organism.yaml"
SERVICES = ("gateway", "router", "agent-worker", "usage")
GONE_BROKER = "amqp://guest:guest@127.0.0.1:9/"
GONE_DATABASE = "postgresql://postgres@127.0.0.1:9/nothing"


def _run(service: str, **settings: str) -> tuple[int, list[str]]:
    """Exit status and what it said; a start that fails says one thing, and no log."""
    command = [sys.executable, str(ROOT / "services" / service / "main.py")]
    given = environment(ORGANISM_FILE=str(EXAMPLE), **settings)
    done = subprocess.run(command, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if not line.startswith("{")]


@pytest.mark.parametrize("service", SERVICES)
def test_without_a_broker(service: str, database_url: str) -> None:
    status, said = _run(service, ORGANISM_AMQP_URL=GONE_BROKER, ORGANISM_DATABASE_URL=database_url)
    assert status == 1
    assert len(said) == 1
    assert "127.0.0.1:9" in said[0]
    assert "correct ORGANISM_" in said[0]


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "agent-worker"])
def test_without_a_database(service: str, amqp_url: str) -> None:
    status, said = _run(service, ORGANISM_AMQP_URL=amqp_url, ORGANISM_DATABASE_URL=GONE_DATABASE)
    assert status == 1
    assert len(said) == 1
    assert "127.0.0.1:9" in said[0]
    assert "correct ORGANISM_" in said[0]


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "agent-worker"])
def test_on_an_old_schema(service: str, amqp_url: str, empty_database_url: str) -> None:
    status, said = _run(service, ORGANISM_AMQP_URL=amqp_url, ORGANISM_DATABASE_URL=empty_database_url)
    assert status == 1
    assert len(said) == 1
    assert "organism migrate" in said[0]


@pytest.mark.parametrize("service", SERVICES)
def test_without_settings(service: str) -> None:
    status, said = _run(service)
    assert status == 2
    assert len(said) == 1
    assert "is not set" in said[0]


@pytest.mark.parametrize("service", SERVICES)
def test_on_a_wrong_file(service: str, tmp_path: Path) -> None:
    file = tmp_path / "organism.yaml"
    file.write_text("organism: {}\nlisteners: nobody\n")
    command = [sys.executable, str(ROOT / "services" / service / "main.py")]
    done = subprocess.run(command, env=environment(ORGANISM_FILE=str(file)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert all("organism.yaml:" in line for line in done.stderr.splitlines())
    assert len(done.stderr.splitlines()) >= 2


def test_up_refuses_an_old_schema_and_goes_after_migrate(empty_database_url: str, tmp_path: Path) -> None:
    arguments = ("up", "--file", str(EXAMPLE), "--port", "18998", "--data", str(tmp_path))
    refused = organism(*arguments, ORGANISM_DATABASE_URL=empty_database_url)
    assert (refused.returncode, "organism migrate" in refused.stderr) == (1, True)
    for _ in range(2):
        assert organism("migrate", ORGANISM_DATABASE_URL=empty_database_url).returncode == 0


def test_migrate_needs_a_database() -> None:
    assert organism("migrate").returncode == 2
    gone = organism("migrate", ORGANISM_DATABASE_URL=GONE_DATABASE)
    assert (gone.returncode, len(gone.stderr.splitlines())) == (1, 1)


def test_a_wrong_setting_is_named() -> None:
    done = organism("up", ORGANISM_PORT="http")
    assert (done.returncode, "ORGANISM_PORT" in done.stderr) == (2, True)
