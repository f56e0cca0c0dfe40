"""Users for the services of an organism on broker and database of the tests, made by the commands for it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

PASSWORD = "a-password-of-the-tests"
SERVICES = ("gateway", "router", "usage", "agent-worker")


def run_organism(*arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "xml_pipeline", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


@dataclass(frozen=True, slots=True)
class Users:
    """The users of one organism: `<prefix><service>` with one password."""

    amqp_url: str
    database_url: str
    prefix: str

    def amqp(self, service: str) -> str:
        """The broker, as this service's user."""
        return with_user(self.amqp_url, self.prefix + service)

    def database(self, service: str) -> str:
        """The database, as this service's user."""
        return with_user(self.database_url, self.prefix + service)

    def environments(self) -> dict[str, dict[str, str]]:
        """The variables of each service; the agent-worker's database is none."""
        return {
            service: {
                "ORGANISM_AMQP_URL": self.amqp(service),
                "ORGANISM_DATABASE_URL": "" if service == "agent-worker" else self.database(service),
            }
            for service in SERVICES
        }


def with_user(url: str, user: str, password: str = PASSWORD) -> str:
    """The same place for another user."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}"))


def make_users(
    organism_file: Path, amqp_url: str, database_url: str, way: Sequence[str], *more: str, prefix: str | None = None
) -> Users:
    """Run `organism database-setup` and `organism broker-setup`; `way`: how users of the broker are made."""
    prefix = prefix or f"t{secrets.token_hex(3)}-"
    variables = {
        f"ORGANISM_{service.replace('-', '_').upper()}_{kind}_PASSWORD": PASSWORD
        for service in SERVICES
        for kind in ("BROKER", "DATABASE")
    }
    urls = {"ORGANISM_AMQP_URL": amqp_url, "ORGANISM_DATABASE_URL": database_url}
    environment = {**variables, **urls, "ORGANISM_FILE": str(organism_file)}
    for command in (("database-setup",), ("broker-setup", *way, *more)):
        done = run_organism(*command, "--prefix", prefix, environment=environment)
        assert done.returncode == 0, done.stderr
    return Users(amqp_url, database_url, prefix)
