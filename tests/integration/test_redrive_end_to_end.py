"""A failure three levels down, redriven from the command line: services as processes, RabbitMQ and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.broker import unique_organism
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organism_up import organism
from tests.support.organisms import renamed
from tests.support.postgres import Databases
from tests.support.processes import wait_until

SERVICES = {"gateway": 1, "router": 2, "agent-worker": 1, "usage": 1}


@pytest.fixture(scope="module")
def url(amqp_url: str, postgres: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, name = tmp_path_factory.mktemp("redrive"), unique_organism()
    file = renamed(ROOT / "tests" / "integration" / "deep", name, folder / name)
    database_url = postgres.create_database()
    fleet = Fleet(file, amqp_url, database_url, folder)
    with running(fleet, SERVICES):
        yield fleet.urls()[0]
    postgres.drop(database_url)


def _json(url: str, *arguments: str) -> Any:
    done = organism(*arguments, "--json", ORGANISM_URL=url)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _to_api(url: str, thread: str) -> list[dict[str, Any]]:
    return [message for message in _json(url, "thread", thread)["messages"] if message["to"] == "api"]


def test_it_goes_on_where_it_broke_and_the_answer_comes_once(url: str) -> None:
    body = {"to": "chief", "payload": {"what": "misspelt"}}
    sent = httpx.post(f"{url}/api/v1/inject", json=body, headers={"Prefer": "wait=60"}, timeout=90).json()
    assert sent["reply"]["payload"]["code"] == "handler-failed"
    thread = sent["threadId"]
    assert _json(url, "thread", thread)["status"] == "error"

    (letter,) = _json(url, "dead-letters", "--listener", "reader", "--thread", thread)["deadLetters"]
    assert (letter["attempts"], letter["payload"], letter["redrivable"]) == (1, {"what": "misspelt"}, True)
    assert "there is no such file" in _json(url, "dead-letter", letter["id"])["reason"]
    redriven = _json(url, "redrive", letter["id"], "what=spelt")
    assert redriven["threadId"] == thread
    assert _json(url, "redrive", letter["id"], "--payload", '{"what": "spelt"}') == redriven

    wait_until(lambda: _json(url, "thread", thread)["status"] == "completed", timeout=60, what="the redriven thread")
    error, answer = _to_api(url, thread)
    assert (error["payloadType"], answer["payload"]) == ("SystemError", {"what": "read spelt"})
    assert _json(url, "dead-letters", "--no-redriven") == _nothing(limit=20)
    assert _json(url, "delete-dead-letter", letter["id"]) == {"success": True}


def test_what_the_organism_refuses_is_told_in_a_line(url: str) -> None:
    for command in ("redrive", "dead-letter", "delete-dead-letter"):
        done = organism(command, "00000000-0000-0000-0000-000000000000", ORGANISM_URL=url)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "unknown dead letter" in done.stderr


def test_what_is_shown(url: str) -> None:
    body = {"to": "reader", "payload": {"what": "misspelt"}}
    httpx.post(f"{url}/api/v1/inject", json=body, headers={"Prefer": "wait=60"}, timeout=90)
    (letter,) = _json(url, "dead-letters", "--no-redriven")["deadLetters"]
    table = organism("dead-letters", ORGANISM_URL=url).stdout
    assert all(word in table for word in (letter["id"], "reader", "handler-failed"))
    shown = organism("dead-letter", letter["id"], ORGANISM_URL=url).stdout
    for word in ("1 attempt", letter["threadId"], "<what>misspelt</what>", f"organism redrive {letter['id']}"):
        assert word in shown


def _nothing(limit: int) -> dict[str, Any]:
    return {"deadLetters": [], "count": 0, "total": 0, "offset": 0, "limit": limit}
