"""The example research-team: embedded, over its API. On RabbitMQ it runs under load in tests/chaos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from tests.support.fleet import ROOT
from tests.support.organism_up import Up
from tests.support.organisms import renamed

STEPS = {
    ("api", "planner"): 1,
    ("planner", "librarian"): 4,
    ("librarian", "planner"): 4,
    ("planner", "analyst"): 4,
    ("analyst", "planner"): 4,
    ("planner", "critic"): 2,
    ("critic", "planner"): 2,
    ("planner", "writer"): 1,
    ("writer", "planner"): 1,
    ("planner", "api"): 1,
}


def test_a_study_is_24_messages_and_12_completions(tmp_path: Path, organism_name: str) -> None:
    with Up(renamed(ROOT / "examples" / "research-team", organism_name, tmp_path / "organism")) as up:
        up.wait_running()
        answer = _inject(up, "rain")
        assert answer["reply"]["payload"] == {
            "topic": "rain",
            "rounds": 2,
            "findings": 8,
            "text": "In short, 8 findings agree.",
        }
        messages = _get(up, f"/threads/{answer['threadId']}/messages")["messages"]
        assert Counter((message["from"], message["to"]) for message in messages) == STEPS
        assert _get(up, "/usage")["usage"]["totals"]["requestCount"] == 12


def _inject(up: Up, topic: str) -> Any:
    body = {"to": "planner", "payload": {"topic": topic}}
    return (
        httpx.post(f"{up.url}/api/v1/inject", json=body, headers={"Prefer": "wait=60"}, timeout=90.0)
        .raise_for_status()
        .json()
    )


def _get(up: Up, path: str) -> Any:
    return httpx.get(f"{up.url}/api/v1{path}", timeout=30.0).raise_for_status().json()
