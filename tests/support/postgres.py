"""Databases for the tests: each an own copy of one that was migrated once."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from tests.support.postgres_server import PostgresServer, binaries
from tests.support.processes import SupportError

URL_VARIABLE = "ORGANISM_TEST_DATABASE_URL"


class Databases:
    """Makes and drops databases on one server."""

    def __init__(self, admin_url: str, kind: str, *, migrate: Callable[[str], None]) -> None:
        self.admin_url = admin_url
        self.kind = kind
        self._migrate = migrate
        self._template: str | None = None
        self._made: set[str] = set()

    def create_database(self) -> str:
        """The URL of a fresh database with the current schema."""
        return self._create(template=self._migrated())

    def create_empty_database(self) -> str:
        """The URL of a fresh database with nothing in it."""
        return self._create(template="template0")

    def drop(self, url: str) -> None:
        """Drop a database, sending its clients away."""
        name = urlsplit(url).path.lstrip("/")
        self._made.discard(name)
        self._sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        """Drop all that is left."""
        for name in list(self._made):
            self.drop(self._url(name))

    def _migrated(self) -> str:
        if self._template is None:
            url = self.create_empty_database()
            self._migrate(url)
            self._template = urlsplit(url).path.lstrip("/")
        return self._template

    def _create(self, *, template: str) -> str:
        name = f"test_{secrets.token_hex(6)}"
        self._sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        self._made.add(name)
        return self._url(name)

    def _url(self, name: str) -> str:
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{name}"))

    def _sql(self, statement: str) -> None:
        psql = [str(binaries() / "psql"), self.admin_url, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement]
        done = subprocess.run(psql, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise SupportError(f"PostgreSQL of the tests: {' '.join(done.stderr.split())}")


class OwnDatabases(Databases):
    """Databases on a server of the tests' own, which ends with them."""

    def __init__(self, *, durable: bool, migrate: Callable[[str], None]) -> None:
        self.server = PostgresServer(durable=durable)
        try:
            self.server.create()
            self.server.start()
        except BaseException:
            self.server.close()
            raise
        super().__init__(self.server.url(), "embedded PostgreSQL", migrate=migrate)

    def close(self) -> None:
        """Stop the server, whose data goes with it."""
        self.server.close()


def start_postgres(*, migrate: Callable[[str], None], durable: bool = False) -> Databases:
    """The server that ORGANISM_TEST_DATABASE_URL names, else one of the tests' own.

    Writes of an own server do not wait for the disk, unless it is to be `durable`.
    """
    url = os.environ.get(URL_VARIABLE)
    if url:
        return Databases(url, f"PostgreSQL of {URL_VARIABLE}", migrate=migrate)
    return OwnDatabases(durable=durable, migrate=migrate)
