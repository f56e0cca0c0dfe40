"""A whole organism, each service as its own user of broker and database, doing all that an organism does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broker import Broker
from tests.support.fleet import Fleet, running
from tests.support.least_rights import make_users, run_organism
from tests.support.postgres import Databases
from tests.support.processes import wait_until

ORGANISM = """
organism: {{name: {name}, max_tokens_per_thread: {tokens}}}
budgets:
  organism: {budget}
  tags: {{team: {{default: 500000}}}}
  agents: {{asker: 400000}}
  at_limit: {at_limit}
llm:
  provider: scripted
  model: grok-4.1
  max_completion_tokens: 100
  script: rights.everything
listeners:
  - name: asker
    payload_class: rights.Ask
    response_class: rights.Told
    handler: rights.ask
    description: Asks a model, and its peer
    agent: true
    peers: [helper]
    retry: {{on: []}}
  - name: helper
    payload_class: rights.Help
    response_class: rights.Helped
    handler: rights.help
    description: Helps
{more}
"""
ANOTHER = """
  - name: another
    payload_class: rights.Help
    response_class: rights.Helped
    handler: rights.help
    description: Helps, too
"""
MODULE = """
from dataclasses import dataclass

from xml_pipeline.llm import complete
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Ask:
    text: str


@dataclass
class Told:
    text: str


@dataclass
class Help:
    text: str


@dataclass
class Helped:
    text: str


def everything(request):
    return ScriptedReply("done", prompt_tokens=400, completion_tokens=100)


async def ask(payload: Ask | Helped, metadata: HandlerMetadata) -> HandlerResponse:
    if isinstance(payload, Helped):
        return HandlerResponse.respond(Told(text=payload.text))
    if payload.text == "fail":
        raise RuntimeError("as it was told")
    await complete("x" * (400 - 16 - 16))
    return HandlerResponse(payload=Help(text=payload.text), to="helper")


async def help(payload: Help, metadata: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Helped(text=payload.text.upper()))
"""
COUNTS = {"router": 1, "usage": 1, "agent-worker": 1, "gateway": 1}
REFUSED = ("permission denied", "ACCESS_REFUSED", "InsufficientPrivilege")


class Organism:
    """The organism that runs, asked over REST."""

    def __init__(self, fleet: Fleet, file: Path, name: str) -> None:
        self.fleet = fleet
        self._file = file
        self._name = name
        self.api = httpx.Client(base_url=f"{fleet.urls()[0]}/api/v1", timeout=60)

    def ask(self, text: str, *, wait: int = 30, **more: Any) -> Any:
        body = {"to": "asker", "payload": {"text": text}, **more}
        return self.post("/inject", body, {"Prefer": f"wait={wait}"} if wait else {})

    def get(self, path: str) -> Any:
        answer = self.api.get(path)
        assert answer.is_success, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        answer = self.api.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()

    def status(self, thread: str) -> str:
        return str(self.get(f"/threads/{thread}")["status"])

    def configure(self, at_limit: str, *, tokens: int = 100_000, more: str = "") -> None:
        write(self._file, self._name, at_limit, tokens=tokens, more=more)
        assert self.post("/organism/reload")["success"]

    def begin(self, tokens: int) -> str:
        """A thread that has made its one call, once the usage service knows of the configuration with so many."""
        threads: list[str] = []

        def begun() -> bool:
            threads.append(self.ask("first")["threadId"])
            return bool(self.get(f"/usage/threads/{threads[-1]}")["maxTokens"] == tokens)

        wait_until(begun, timeout=60, what=f"threads begin with {tokens} tokens")
        return threads[-1]

    def until(self, path: str, key: str, wanted: Any) -> None:
        wait_until(lambda: self.get(path)[key] == wanted, timeout=60, what=f"{path} has {key} {wanted}")


def write(
    file: Path, name: str, at_limit: str, *, tokens: int = 100_000, more: str = "", budget: int = 1_000_000
) -> None:
    file.write_text(ORGANISM.format(name=name, at_limit=at_limit, tokens=tokens, more=more, budget=budget))


@pytest.fixture(scope="module")
def database_url(postgres: Databases) -> Iterator[str]:
    url = postgres.create_database()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="module")
def organism(managed_broker: Broker, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Organism]:
    folder, name = tmp_path_factory.mktemp("rights"), "least-rights"
    (folder / "rights.py").write_text(MODULE)
    file = folder / "organism.yaml"
    write(file, name, "deny")
    way = ("--management", managed_broker.node.management_url)
    users = make_users(file, managed_broker.amqp_url, database_url, way)
    fleet = Fleet(file, "", "", folder, own=users.environments())
    with running(fleet, COUNTS):
        yield Organism(fleet, file, name)
    for service in fleet.services:
        said = [line for line in service.log.read_text().splitlines() if any(word in line for word in REFUSED)]
        assert all("topology_left_to_others" in line for line in said), said


@pytest.fixture
def books(database_url: str) -> Iterator[None]:
    """The books are clean after the test."""
    yield
    done = run_organism("audit", environment={"ORGANISM_DATABASE_URL": database_url})
    assert done.returncode == 0, done.stdout + done.stderr


pytestmark = pytest.mark.usefixtures("books")


def test_it_answers_and_books(organism: Organism) -> None:
    before = organism.get("/usage")["usage"]["totals"]["totalTokens"]
    answer = organism.ask("hello", tags={"team": "blue"})
    assert answer["reply"]["payload"] == {"text": "HELLO"}
    organism.until(f"/threads/{answer['threadId']}", "status", "completed")
    wait_until(
        lambda: organism.get("/usage")["usage"]["totals"]["totalTokens"] == before + 500,
        timeout=30,
        what="the call is booked",
    )
    for path in ("/usage/timeseries?group=tag", "/usage/budgets", "/usage/threads", "/messages", "/agents", "/threads"):
        organism.get(path)


def test_every_service_tells_its_metrics(organism: Organism) -> None:
    for service in organism.fleet.services:
        answer = service.says("/metrics")
        assert answer is not None
        assert answer.is_success


def test_steering(organism: Organism) -> None:
    organism.post("/agents/asker/pause")
    thread = organism.ask("wait", wait=0)["threadId"]
    organism.until("/agents/asker", "queueDepth", 1)
    organism.post(f"/threads/{thread}/kill")
    assert organism.status(thread) == "killed"
    other = organism.ask("wait", wait=0)["threadId"]
    organism.post("/agents/asker/resume")
    organism.until(f"/threads/{other}", "status", "completed")
    assert organism.post("/usage/reset")["success"]
    assert organism.get("/usage")["usage"]["totals"]["totalTokens"] == 0


def test_dead_letters(organism: Organism) -> None:
    thread = organism.ask("fail")["threadId"]
    organism.until(f"/threads/{thread}", "status", "error")
    letters = organism.get(f"/dead-letters?thread={thread}")["deadLetters"]
    organism.post(f"/dead-letters/{letters[0]['id']}/redrive", {"payload": {"text": "mended"}})
    organism.until(f"/threads/{thread}", "status", "completed")
    wait_until(
        partial(lambda id_: organism.api.delete(f"/dead-letters/{id_}").is_success, letters[0]["id"]),
        timeout=30,
        what="the letter is deleted, once a router has taken its redrive",
    )


def test_limits_top_ups_and_reloads(organism: Organism) -> None:
    organism.configure("park", tokens=700)
    thread = organism.begin(700)
    organism.ask("second", threadId=thread, wait=0)
    organism.until(f"/usage/threads/{thread}", "parkedMessages", 1)
    organism.post(f"/usage/threads/{thread}/top-up", {"tokens": 500})
    organism.until(f"/threads/{thread}", "status", "completed")
    organism.configure("kill", tokens=800)
    killed = organism.begin(800)
    organism.ask("second", threadId=killed, wait=0)
    organism.until(f"/threads/{killed}", "status", "killed")
    organism.configure("deny")


def test_a_new_listener_gets_its_queue_from_a_router(organism: Organism) -> None:
    organism.configure("deny", more=ANOTHER)
    inject = {"to": "another", "payload": {"text": "new"}}

    def answers() -> bool:
        answer = organism.post("/inject", inject, {"Prefer": "wait=30"})
        return bool(answer["reply"] and answer["reply"]["payload"] == {"text": "NEW"})

    wait_until(answers, timeout=60, what="the routers and workers know the new listener")
    organism.configure("deny")


def test_months_are_archived_by_who_owns_the_tables_while_it_works(
    organism: Organism, database_url: str, tmp_path: Path
) -> None:
    owner = {"ORGANISM_DATABASE_URL": database_url}
    done = run_organism(
        "usage", "archive", "--before", "2026-01", "--to", str(tmp_path), "--format", "csv", environment=owner
    )
    assert done.returncode == 0, done.stderr
    assert organism.ask("on")["reply"]["payload"] == {"text": "ON"}


def test_a_killed_worker_and_a_killed_router_are_replaced(organism: Organism) -> None:
    for name in ("agent-worker", "router", "usage"):
        for service in organism.fleet.of(name):
            service.kill()
        organism.fleet.start(name)
    organism.fleet.wait_running()
    assert organism.ask("again")["reply"]["payload"] == {"text": "AGAIN"}


def test_keys_are_looked_up_and_their_use_is_noted(organism: Organism, database_url: str) -> None:
    owner = {"ORGANISM_DATABASE_URL": database_url}
    made = run_organism("key", "create", "--name", "tests", "--role", "admin", environment=owner)
    assert made.returncode == 0, made.stderr
    organism.api.headers["authorization"] = f"Bearer {made.stdout.strip()}"

    def used() -> bool:
        answered = organism.api.get("/organism").is_success
        keys = json.loads(run_organism("key", "list", "--json", environment=owner).stdout)["keys"]
        return answered and keys[0]["lastUsedAt"] is not None

    wait_until(used, timeout=60, what="the key's use is noted")


def test_it_stops_when_it_is_asked_to(organism: Organism) -> None:
    assert organism.post("/organism/stop")["success"]
    for service in organism.fleet.services:
        if service.name != "gateway" and service.alive:
            assert service.process.wait(30) == 0, service.log.read_text()
