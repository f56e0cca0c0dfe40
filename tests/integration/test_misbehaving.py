"""Handlers that fail in every way: their callers hear of it, their messages are kept, other threads do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.fleet import ROOT
from tests.support.organism_up import Up
from tests.support.organisms import renamed

WAIT = {"Prefer": "wait=30"}
FAILING = {"raiser": "handler-failed", "hanger": "timeout", "rubbish": "handler-failed", "quitter": "handler-failed"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("misbehaving") / "organism"
    with Up(renamed(ROOT / "tests" / "integration" / "misbehaving", "misbehaving", folder)) as running:
        running.wait_running()
        yield running


def ask(up: Up, to: str, payload: dict[str, str]) -> dict[str, Any]:
    answer = httpx.post(f"{up.url}/api/v1/inject", json={"to": to, "payload": payload}, headers=WAIT, timeout=60)
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def status(up: Up, thread_id: str) -> str:
    answer: dict[str, Any] = httpx.get(f"{up.url}/api/v1/threads/{thread_id}", timeout=30).json()
    return str(answer["status"])


@pytest.mark.parametrize(("listener", "code"), FAILING.items())
def test_whoever_asked_from_outside_gets_a_system_error(up: Up, listener: str, code: str) -> None:
    body = ask(up, listener, {"what": "x"})
    assert body["reply"]["payloadType"] == "SystemError"
    assert body["reply"]["payload"]["code"] == code
    assert status(up, body["threadId"]) == "error"


@pytest.mark.parametrize(("listener", "code"), FAILING.items())
def test_an_agent_that_asked_hears_of_it_and_goes_on(up: Up, listener: str, code: str) -> None:
    body = ask(up, "boss", {"to": listener})
    report = body["reply"]["payload"]
    assert (report["kind"], report["sender"], report["code"]) == ("error", listener, code)
    assert status(up, body["threadId"]) == "completed"


def test_other_threads_do_not_notice(up: Up) -> None:
    with ThreadPoolExecutor(max_workers=12) as pool:
        bad = [pool.submit(ask, up, listener, {"what": "x"}) for listener in FAILING]
        good = [pool.submit(ask, up, "good", {"what": str(number)}) for number in range(30)]
    assert [one.result()["reply"]["payload"]["what"] for one in good] == [str(number) for number in range(30)]
    assert all(one.result()["reply"]["payloadType"] == "SystemError" for one in bad)


def test_a_target_that_may_not_be_reached_and_one_that_is_not_there_look_the_same(up: Up) -> None:
    hidden = ask(up, "boss", {"to": "hidden"})["reply"]["payload"]
    missing = ask(up, "boss", {"to": "nobody"})["reply"]["payload"]
    reserved = ask(up, "boss", {"to": "api"})["reply"]["payload"]
    assert hidden == missing == reserved
    assert (hidden["kind"], hidden["sender"], hidden["code"]) == ("error", "system", "not-reachable")


def test_no_answer_is_told(up: Up) -> None:
    body = ask(up, "silent", {"what": "x"})
    assert body["reply"]["payload"]["code"] == "no-answer"
    assert status(up, body["threadId"]) == "error"
