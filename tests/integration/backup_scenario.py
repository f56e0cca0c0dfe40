"""A fleet that is dumped while it works under load, lost with its broker, and restored as docs/backup.md says."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import httpx

from tests.benchmarks.audit import fill_books
from tests.chaos.load import until
from tests.support.broker import Broker
from tests.support.doc_commands import commands, ended, shell
from tests.support.fleet import Fleet
from tests.support.keys import Key, make_key, revoke_key
from tests.support.least_rights import PASSWORD, SERVICES, Users, run_organism, with_user
from tests.support.organisms import renamed
from tests.support.postgres_server import PostgresServer
from tests.support.processes import wait_until
from tests.support.steady_load import SteadyLoad, steady_load
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate_database

COUNTS = {"router": 1, "usage": 1, "agent-worker": 1, "gateway": 1}
# So many that the dump is still under way when the services go on.
ROWS = 20_000
# More than the window of a listener: some wait in PostgreSQL, some on the broker, some are with the worker.
SLOW = 40
RATE = 10.0
FOLDER = Path(__file__).parent / "backed_up"
_PREPARED = {
    "retrier": "select from messages where to_id = 'retrier' and state = 'ready' and attempt > 0",
    "poison": "select from dead_letters where listener = 'poison'",
    "spender": "select from messages where to_id = 'spender' and parked_for is not null",
    "napper": "select from messages where to_id = 'napper' and state = 'ready'",
    "payer": "select from holds where agent_id = 'payer' and state = 'held'",
    "slow": "select from holds where agent_id = 'slow' and state = 'held'",
}


@dataclass(slots=True)
class Api:
    """The gateway over REST."""

    url: str
    key: Key

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        headers = self.key.bearer | ({"Idempotency-Key": key} if key else {})
        return httpx.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers, timeout=30)

    def done(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        answer = self.call(method, path, body, key)
        assert answer.is_success, answer.text
        return answer.json()

    def inject(self, to: str, text: str) -> str:
        """The thread; its key is what is said, so that it can be sent again."""
        return str(self.done("POST", "/inject", inject_body(to, text), key=text)["threadId"])


def inject_body(to: str, text: str) -> dict[str, Any]:
    return {"to": to, "payload": {"text": text}}


@dataclass(slots=True)
class Story:
    """What was done before, and where everything is after."""

    folder: Path
    broker: Broker
    name: str
    threads: dict[str, list[str]] = field(default_factory=dict)  # by listener
    answered: list[str] = field(default_factory=list)
    killed: str = ""
    before: dict[str, str] = field(default_factory=dict)  # by Idempotency-Key: the thread
    during: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)  # threads of the dump
    facts: dict[str, int] = field(default_factory=dict)  # of the dump, before the services start
    server_url: str = ""
    database_url: str = ""
    api: Api = field(init=False)

    @property
    def file(self) -> Path:
        return self.folder / "organism" / "organism.yaml"

    @property
    def signs(self) -> Path:
        return self.folder / "signs"

    @property
    def log(self) -> Path:
        return self.folder / "answered.jsonl"

    @property
    def amqp_url(self) -> str:
        """An administrator's, of a virtual host of its own."""
        return urlunsplit(urlsplit(self.broker.amqp_url)._replace(path=f"/{quote(self.name)}"))

    def begin(self) -> None:
        """The files."""
        renamed(FOLDER, self.name, self.folder / "organism")
        self.signs.mkdir()
        for kind in ("database", "broker"):
            (self.folder / kind).mkdir()
            for service in SERVICES:
                (self.folder / kind / service).write_text(PASSWORD)

    def make_database(self, server: PostgresServer) -> None:
        """An empty database, whose owner is no superuser."""
        self.server_url = server.url()
        self.database_url = with_user(server.url("organism"), "organism")
        self.run("owner", self.database_url)

    def make_broker(self) -> None:
        """An empty virtual host, and its administrator's rights."""
        self._manage("PUT", f"vhosts/{self.name}", {})
        everything = dict.fromkeys(("configure", "write", "read"), ".*")
        self._manage("PUT", f"permissions/{self.name}/guest", everything)

    def lose_broker(self) -> None:
        """All that is in the virtual host, and the users of the services."""
        self._manage("DELETE", f"vhosts/{self.name}")
        for service in SERVICES:
            self._manage("DELETE", f"users/{self.name}-{service}")

    def _manage(self, method: str, path: str, body: Any = None) -> None:
        url = f"{self.broker.node.management_url}/api/{path}"
        answer = httpx.request(method, url, json=body, timeout=30)
        assert answer.is_success, answer.text

    def variables(self, database_url: str) -> dict[str, str]:
        """Those of the commands of docs/backup.md."""
        return {
            "SERVER_URL": self.server_url,
            "OWNER_PASSWORD": PASSWORD,
            "ORGANISM_DATABASE_URL": database_url,
            "ORGANISM_AMQP_URL": self.amqp_url,
            "ORGANISM_FILE": str(self.file),
            "MANAGEMENT_URL": self.broker.node.management_url,
            "DATABASE_PASSWORDS": str(self.folder / "database"),
            "BROKER_PASSWORDS": str(self.folder / "broker"),
            "PREFIX": f"{self.name}-",
        }

    def run(self, block: str, database_url: str) -> str:
        """A block of docs/backup.md."""
        return ended(shell(commands("backup.md", block), self.folder, self.variables(database_url)))

    def organism(self, *arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
        done = run_organism(*arguments, environment=self.variables(database_url))
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    @contextmanager
    def services(self, database_url: str, key: Key) -> Iterator[Fleet]:
        """One of each, as users of their own; they end with SIGKILL."""
        users = Users(self.amqp_url, database_url, f"{self.name}-")
        variables = {"BACKED_UP_SIGNS": str(self.signs), "ORGANISM_LLM_LOG": str(self.log)}
        folder = self.folder / f"services-{urlsplit(database_url).port}"
        folder.mkdir()
        fleet = Fleet(self.file, "", "", folder, variables, own=users.environments())
        try:
            for name, count in COUNTS.items():
                fleet.start(name, count)
            self.api = Api(fleet.urls()[0], key)
            wait_until(self._runs, timeout=60, what="the organism runs")
            yield fleet
        except BaseException:
            print(fleet.logs())
            raise
        finally:
            for service in fleet.services:
                service.kill()

    def _runs(self) -> bool:
        try:
            answer = self.api.call("GET", "/organism")
        except httpx.TransportError:
            return False
        return answer.is_success and answer.json()["status"] == "running"

    def answered_by_model(self, agent: str) -> int:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(json.loads(line)["agent"] == agent for line in lines)


async def dumped(story: Story, server: PostgresServer) -> None:
    """From an empty server to a dump of threads in every state, and everything gone."""
    story.make_database(server)
    url = story.database_url
    await _make_schema(story, url)
    db = Database.connect(url)
    story.keys = {name: await make_key(db, name=name) for name in ("kept", "revoked-before", "revoked-after")}
    await revoke_key(db, story.keys["revoked-before"])
    connection = await asyncpg.connect(url)
    with story.services(url, story.keys["kept"]) as fleet:
        async with steady_load(story.api.url, "asker", rate=RATE, headers=story.keys["kept"].bearer) as load:
            await _prepare(story, connection)
            await _dump(story, fleet, load, connection, url)
            await _afterwards(story, db)
            wanted = len(load.accepted) + 5
            await until(lambda: _many(load, wanted))
    story.during = {one.key: one.thread for one in load.accepted if one.key not in story.before}
    await connection.close()
    await db.close()


async def _make_schema(story: Story, url: str) -> None:
    await migrate_database(url)
    await fill_books(url, ROWS)
    story.make_broker()
    story.run("users", url)


async def _prepare(story: Story, connection: asyncpg.Connection) -> None:
    """Threads in every state."""
    await asyncio.to_thread(_ask_for_them, story)
    for statement in _PREPARED.values():
        await until(partial(_found, connection, statement))
    routed = f"select from (select count(*) as number from messages where to_id = 'slow') m where number = {SLOW}"  # noqa: S608
    await until(partial(_found, connection, routed))
    ended_threads = "select from threads where id = any(cast($1 as uuid[])) and status = 'completed'"
    await until(lambda: _count(connection, ended_threads, story.answered, 3))


def _ask_for_them(story: Story) -> None:
    api = story.api
    story.answered = [api.inject("asker", f"answered {number}") for number in range(3)]
    api.done("POST", "/agents/napper/pause")
    story.killed = api.inject("napper", "killed")
    api.done("POST", f"/threads/{story.killed}/kill")
    for listener in _PREPARED:
        count = SLOW if listener == "slow" else 1
        story.threads[listener] = [api.inject(listener, f"{listener} {number}") for number in range(count)]


async def _dump(story: Story, fleet: Fleet, load: SteadyLoad, connection: asyncpg.Connection, url: str) -> None:
    """While clients inject. When it begins, what router and usage service would take stands on the broker alone."""
    stopped = [fleet.of(name)[0].process for name in ("router", "usage")]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    (story.signs / "pay").touch()
    await until(lambda: _answered(story, "payer"))
    story.threads["ingress"] = await asyncio.to_thread(_asked, story, "ingress")
    story.before = {one.key: one.thread for one in load.accepted}
    dump = shell(commands("backup.md", "dump"), story.folder, story.variables(url))
    sees = "select from pg_stat_activity where application_name = 'pg_dump' and backend_xmin is not null"
    await until(lambda: _found(connection, sees))
    for process in stopped:
        process.send_signal(signal.SIGCONT)
    await asyncio.to_thread(ended, dump)


async def _afterwards(story: Story, db: Database) -> None:
    """What the dump cannot know."""
    threads = await asyncio.to_thread(_asked, story, "after")
    story.after = {f"after {number}": thread for number, thread in enumerate(threads)}
    story.keys["made-after"] = await make_key(db, name="made-after")
    await revoke_key(db, story.keys["revoked-after"])


def _asked(story: Story, what: str) -> list[str]:
    return [story.api.inject("asker", f"{what} {number}") for number in range(3)]


async def restored(story: Story, server: PostgresServer) -> None:
    """Into a server and a virtual host with nothing in them, by the commands of docs/backup.md."""
    story.make_database(server)
    url = story.database_url
    story.lose_broker()
    story.make_broker()
    for block in ("restore", "users", "look"):
        story.run(block, url)
    connection = await asyncpg.connect(url)
    story.known = {str(row[0]) for row in await connection.fetch("select id from threads")}
    for name, statement in {**_PREPARED, **_ONLY_ON_THE_BROKER}.items():
        story.facts[name] = await connection.fetchval(f"select count(*) from ({statement}) found")  # noqa: S608
    await connection.close()


# What the database of the dump had handed to the broker, or the broker's clients had said and nobody had taken.
_ONLY_ON_THE_BROKER = {
    "out": "select from messages where state = 'out' and to_id = 'slow'",
    "waiting": "select from messages where state = 'ready' and to_id = 'slow'",
    "untaken": "select from inbox where taken_at is null",
    "not-booked": "select from holds h where agent_id = 'payer' and not exists ("
    "select from usage_events e where e.call_id = h.call_id)",
}


async def _many(load: SteadyLoad, count: int) -> bool:
    return len(load.accepted) >= count


async def _answered(story: Story, agent: str) -> bool:
    return story.answered_by_model(agent) > 0


async def _found(connection: asyncpg.Connection, statement: str) -> bool:
    return bool(await connection.fetchval(f"select exists ({statement})"))


async def _count(connection: asyncpg.Connection, statement: str, threads: list[str], count: int) -> bool:
    found: int = await connection.fetchval(f"select count(*) from ({statement}) found", threads)  # noqa: S608
    return found == count
