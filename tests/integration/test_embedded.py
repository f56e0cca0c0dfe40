"""An embedded organism that is killed goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.organism_up import Up
from tests.support.organisms import renamed
from tests.support.processes import wait_until

_HELLO_WORLD = Path(__file__).parents[2] / "examples" / "hello-world"

_ORGANISM = """
organism: {name: gated}
listeners:
  - name: gate
    payload_class: gate.Knock
    response_class: gate.Opened
    handler: gate.knock
    description: Answers when the gate is open
    timeout: 120
"""
_MODULE = """
from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Knock:
    folder: str


@dataclass
class Opened:
    who: str


async def knock(payload: Knock, metadata: HandlerMetadata) -> HandlerResponse:
    folder = Path(payload.folder)
    (folder / "knocked").touch()
    while not (folder / "open").exists():
        await asyncio.sleep(0.02)
    return HandlerResponse.respond(Opened(who="me"))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "gate.py").write_text(_MODULE)
    file = tmp_path / "organism.yaml"
    file.write_text(_ORGANISM)
    return file


def _get(up: Up, path: str) -> Any:
    return httpx.get(f"{up.url}/api/v1{path}", timeout=30.0).raise_for_status().json()


def test_it_tells_of_all_four_services(file: Path) -> None:
    with Up(file) as up:
        up.wait_running()
        alive, ready = (httpx.get(f"{up.url}{path}") for path in ("/livez", "/readyz"))
        assert (alive.status_code, ready.status_code) == (httpx.codes.OK, httpx.codes.OK)
        checks = [check["name"] for answer in (alive, ready) for check in answer.json()["checks"]]
        assert {name.partition(".")[0] for name in checks} == {"gateway", "router", "usage", "agent-worker"}


def test_goes_on_after_kill_9(file: Path) -> None:
    with Up(file) as up:
        up.wait_running()
        body = {"to": "gate", "payload": {"folder": str(file.parent)}}
        sent = httpx.post(f"{up.url}/api/v1/inject", json=body, timeout=30.0).raise_for_status().json()
        wait_until((file.parent / "knocked").exists, timeout=30, what="the handler runs")
        up.kill()
        (file.parent / "open").touch()
        up.restart()
        up.wait_running()
        path = f"/threads/{sent['threadId']}"
        wait_until(lambda: _get(up, path)["status"] == "completed", timeout=60, what="the thread completes")
        messages = _get(up, f"{path}/messages")["messages"]
        assert sorted((message["from"], message["to"]) for message in messages) == [("api", "gate"), ("gate", "api")]
        assert sent["messageId"] in {message["id"] for message in messages}


def test_what_was_accepted_while_it_died_is_answered(file: Path) -> None:
    (file.parent / "open").touch()
    with Up(file) as up:
        up.wait_running()
        body = {"to": "gate", "payload": {"folder": str(file.parent)}}
        with httpx.Client(base_url=f"{up.url}/api/v1", timeout=30.0) as client:
            sent = [client.post("/inject", json=body).raise_for_status().json() for _ in range(20)]
        up.kill()
        up.restart()
        up.wait_running()

        def all_completed() -> bool:
            return bool(_get(up, "/threads?status=completed")["total"] == len(sent))

        wait_until(all_completed, timeout=60, what="all threads complete")
        assert _get(up, "/messages")["total"] == 2 * len(sent)


def _inject_greetings(up: Up, count: int) -> int:
    with httpx.Client(base_url=f"{up.url}/api/v1", timeout=30.0) as client:
        for number in range(count):
            body = {"to": "greeter", "payload": {"name": f"number {number}"}}
            client.post("/inject", json=body).raise_for_status()
    return count


@pytest.mark.slow
@pytest.mark.timeout(360)
def test_killed_again_and_again_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    accepted = 0
    with Up(renamed(_HELLO_WORLD, "killed-often", tmp_path / "organism")) as up:
        for round_ in range(4):
            up.wait_running()
            accepted += _inject_greetings(up, 30)
            # At another moment each time: right after the last inject, or when so many threads have ended.
            ended = accepted - 30 + 10 * round_
            wait_until(lambda: _completed(up) >= ended, timeout=60, what="some threads complete")  # noqa: B023
            up.kill()
            up.restart()
        up.wait_running()
        wait_until(lambda: _completed(up) == accepted, timeout=60, what="all threads complete")
        assert _get(up, "/messages")["total"] == 4 * accepted
        # A call whose usage was on its way when all was killed is booked when its hold is over.
        wait_until(lambda: _booked(up) >= accepted, timeout=120, what="every call is booked")


def _booked(up: Up) -> int:
    count: int = _get(up, "/usage")["usage"]["totals"]["requestCount"]
    return count


def _completed(up: Up) -> int:
    total: int = _get(up, "/threads?status=completed")["total"]
    return total


def test_up_on_a_real_broker_and_database(amqp_url: str, database_url: str, organism_name: str, tmp_path: Path) -> None:
    file = renamed(_HELLO_WORLD, organism_name, tmp_path / "organism")
    with Up(file, settings={"ORGANISM_AMQP_URL": amqp_url, "ORGANISM_DATABASE_URL": database_url}) as up:
        up.wait_running()
        assert up.organism("inject", "greeter", "name=Dan", "--wait", "30").stdout.startswith("HELLO, DAN!")
    assert not up.data.exists()
