"""`organism key` as people and scripts use it, and gateways as processes that ask for what it made."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.support.fleet import ROOT, Fleet, Service
from tests.support.organism_up import environment, organism
from tests.support.organisms import renamed
from tests.support.processes import free_port, wait_until

EVERYWHERE = "0.0.0.0"  # noqa: S104
WRITE = ("key", "create", "--if-none", "--role", "admin", "--name", "first", "--write")


def key_command(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return organism("key", *arguments, ORGANISM_DATABASE_URL=url)


def created(url: str, role: str = "admin") -> str:
    """A key's secret, captured as a script does."""
    done = key_command(url, "create", "--name", "script", "--role", role)
    assert done.returncode == 0, done.stderr
    return done.stdout.removesuffix("\n")


async def everything_in(url: str) -> str:
    """All that the database keeps of keys, as text."""
    connection = await asyncpg.connect(url)
    try:
        rows = [*await connection.fetch("select * from api_keys"), *await connection.fetch("select * from audit_log")]
    finally:
        await connection.close()
    return "\n".join(str(dict(row)) for row in rows)


async def test_the_secret_stands_alone_on_standard_output_and_nowhere_else(database_url: str) -> None:
    done = key_command(database_url, "create", "--name", "Dan's laptop", "--role", "operator")
    secret = done.stdout.removesuffix("\n")
    assert (secret.startswith("xp_"), len(secret.split())) == (True, 1)
    assert "operator" in done.stderr
    listed = json.loads(key_command(database_url, "list", "--json").stdout)
    [key] = listed["keys"]
    assert (key["name"], key["role"], key["lastUsedAt"], key["revokedAt"]) == ("Dan's laptop", "operator", None, None)
    shown = key_command(database_url, "list").stdout
    assert key["id"] in shown
    assert secret not in done.stderr + shown + json.dumps(listed) + await everything_in(database_url)


def test_a_key_is_revoked_once_and_stays_in_the_list(database_url: str) -> None:
    secret = created(database_url)
    [key] = json.loads(key_command(database_url, "list", "--json").stdout)["keys"]
    first = json.loads(key_command(database_url, "revoke", key["id"], "--json").stdout)
    again = json.loads(key_command(database_url, "revoke", key["id"], "--json").stdout)
    assert first == again
    assert first["revokedAt"] is not None
    assert secret not in json.dumps(first)


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("revoke", "11111111-1111-4111-8111-111111111111"), 1, "organism key list"),
        (("revoke", "first"), 2, "is no key's id"),
        (("create", "--name", " ", "--role", "viewer"), 2, "name"),
        (("create", "--name", "x", "--role", "god"), 2, "god"),
        (("create", "--name", "x", "--role", "viewer", "--write", "/no/such/folder/key"), 2, "cannot write"),
    ],
)
def test_what_cannot_be_done(database_url: str, arguments: tuple[str, ...], status: int, says: str) -> None:
    done = key_command(database_url, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert says in done.stderr
    assert json.loads(key_command(database_url, "list", "--json").stdout)["count"] == 0


def test_without_a_database_it_says_so() -> None:
    assert organism("key", "list").returncode == 2
    assert "ORGANISM_DATABASE_URL" in organism("key", "list").stderr


def test_two_first_starts_at_once_make_one_key(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "first"
    with ThreadPoolExecutor() as pool:
        starts = [pool.submit(organism, *WRITE, str(file), ORGANISM_DATABASE_URL=database_url) for _ in range(3)]
    assert [start.result().returncode for start in starts] == [0, 0, 0]
    assert "".join(start.result().stdout for start in starts) == ""
    assert json.loads(key_command(database_url, "list", "--json").stdout)["count"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    assert before.startswith("xp_")
    assert organism(*WRITE, str(file), ORGANISM_DATABASE_URL=database_url).returncode == 0
    assert file.read_text() == before


@pytest.fixture
def fleet(amqp_url: str, database_url: str, tmp_path: Path, organism_name: str) -> Fleet:
    file = renamed(ROOT / "examples" / "hello-world", organism_name, tmp_path / organism_name)
    return Fleet(file, amqp_url, database_url, tmp_path)


def answer_of(gateway: Service, secret: str | None = None, host: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return httpx.get(f"{gateway.url}/api/v1/threads", headers=headers | ({"Host": host} if host else {})).status_code


def test_a_gateway_is_not_exposed_before_there_is_a_key(fleet: Fleet, database_url: str) -> None:
    port = free_port()
    exposed = {"ORGANISM_HOST": EVERYWHERE, "ORGANISM_PORT": str(port)}
    command = [sys.executable, str(ROOT / "services" / "gateway" / "main.py")]
    settings = {
        "ORGANISM_FILE": str(fleet.organism_file),
        "ORGANISM_AMQP_URL": fleet.amqp_url,
        "ORGANISM_DATABASE_URL": database_url,
    }
    done = subprocess.run(command, env=environment(**settings, **exposed), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (len(said), "[api-key-required]" in said[0], "organism key create" in said[0]) == (1, True, True)
    secret = created(database_url)
    try:
        gateway = fleet.start_one("gateway", environment=exposed, port=port)
        gateway.wait_ready()
        assert (answer_of(gateway), answer_of(gateway, secret)) == (401, 200)
        assert answer_of(gateway, secret, host=f"{socket.gethostname()}:{port}") == 200
        assert secret not in gateway.log.read_text()
    finally:
        fleet.stop()


def test_the_command_line_takes_its_key_from_the_environment(fleet: Fleet, database_url: str) -> None:
    try:
        gateway = fleet.start_one("gateway")
        gateway.wait_ready()
        assert "gateway.open" in gateway.log.read_text()
        assert answer_of(gateway) == 200
        secret = created(database_url, "viewer")
        wait_until(lambda: answer_of(gateway) == 401, timeout=20, what="a key is needed")
        without = organism("threads", ORGANISM_URL=gateway.url)
        assert (without.returncode, "ORGANISM_API_KEY" in without.stderr) == (1, True)
        with_it = {"ORGANISM_URL": gateway.url, "ORGANISM_API_KEY": secret}
        assert organism("threads", "--json", **with_it).returncode == 0
        refused = organism("inject", "greeter", "name=Dan", **with_it)
        assert (refused.returncode, "role operator" in refused.stderr) == (1, True)
        assert organism("health", gateway.url).returncode == 0
        [key] = json.loads(key_command(database_url, "list", "--json").stdout)["keys"]
        assert key_command(database_url, "revoke", key["id"]).returncode == 0
        wait_until(lambda: answer_of(gateway, secret) == 401, timeout=20, what="the key is refused")
    finally:
        fleet.stop()
