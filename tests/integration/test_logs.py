"""What services as processes log, at their most talkative: ids wherever they are known, payloads and secrets never."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import pytest

from tests.support.collector import collecting
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organisms import renamed
from tests.support.processes import wait_until
from xml_pipeline.tracing.ids import trace_text

PAYLOAD = "the-payload-says-this-4711"
SECRET = "c2VjcmV0LW9mLXRoZS1vcmdhbmlzbQ"
WAYS = ("talk", "raise", "exit", "rubbish", "wrong", "stray")
SERVICES = {"gateway": 1, "usage": 1, "router": 1, "agent-worker": 1}


@pytest.mark.timeout(180)
def test_logs_carry_ids_and_never_a_payload_or_a_secret(
    amqp_url: str, database_url: str, organism_name: str, tmp_path: Path
) -> None:
    file = renamed(ROOT / "tests" / "integration" / "talking", organism_name, tmp_path / "organism")
    with collecting() as collector:
        environment = {
            "ORGANISM_LOG_LEVEL": "debug",
            "TALKING_SECRET": f"whsec_{SECRET}",
            "OPENAI_API_KEY": SECRET,
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}",
            **collector.environment,
        }
        fleet = Fleet(file, amqp_url, database_url, tmp_path, environment)
        with running(fleet, SERVICES):
            url = fleet.urls()[0]
            asked = {what: _inject(url, what) for what in WAYS}
            _refused(url)
            for thread, _ in asked.values():
                wait_until(lambda id_=thread: _ended(url, id_), timeout=60.0, what="the thread ends")  # type: ignore[misc]
    logs = {service.name: service.log.read_text() for service in fleet.services}
    _nothing_that_was_said(logs, database_url, collector.bodies)
    lines = {name: _lines(text) for name, text in logs.items()}
    _ids(lines, asked, organism_name)


def _inject(url: str, what: str) -> tuple[UUID, UUID]:
    body = {"to": "talker", "payload": {"what": what, "text": PAYLOAD}}
    answer = httpx.post(f"{url}/api/v1/inject", json=body, timeout=30.0).raise_for_status().json()
    return UUID(answer["threadId"]), UUID(answer["messageId"])


def _refused(url: str) -> None:
    """What a gateway turns down, it does not repeat."""
    for body in (
        {"to": "talker", "payload": {"what": {"no": PAYLOAD}}},
        {"to": PAYLOAD, "payload": {}},
        {"to": "talker", "payload": {"what": "talk", "text": PAYLOAD}, "threadId": PAYLOAD},
    ):
        assert httpx.post(f"{url}/api/v1/inject", json=body, timeout=30.0).is_client_error


def _ended(url: str, thread: UUID) -> bool:
    status: str = httpx.get(f"{url}/api/v1/threads/{thread}", timeout=30.0).raise_for_status().json()["status"]
    return status in ("completed", "error")


def _nothing_that_was_said(logs: dict[str, str], database_url: str, traces: Sequence[bytes]) -> None:
    password = urlsplit(database_url).password
    assert password
    for name, text in logs.items():
        for word in (PAYLOAD, SECRET, password, "guest:guest"):
            assert word not in text, f"{word} in the log of {name}"
    assert traces
    for body in traces:
        assert PAYLOAD.encode() not in body


def _lines(text: str) -> list[dict[str, Any]]:
    """Every line is an object: nothing is printed past the logger."""
    return [json.loads(line) for line in text.splitlines()]


def _ids(lines: dict[str, list[dict[str, Any]]], asked: dict[str, tuple[UUID, UUID]], organism: str) -> None:
    for name, logged in lines.items():
        assert any(line.get("organism") == organism for line in logged), name
    for what in ("raise", "exit"):
        thread, message = asked[what]
        ids = {"thread_id": str(thread), "message_id": str(message), "trace_id": trace_text(thread)}
        turn = _the(lines["agent-worker"], "turn_not_ok", message)
        letter = _the(lines["router"], "dead_letter", message)
        assert turn | ids | {"organism": organism, "outcome": "error"} == turn
        assert letter | ids | {"organism": organism, "code": "handler-failed"} == letter
    thread, message = asked["talk"]
    for event in ("handler_speaks", "handler speaks the old way"):
        spoken = _the(lines["agent-worker"], event, message)
        about = {"organism": organism, "listener": "talker", "trace_id": trace_text(thread), "attempt": 1}
        assert spoken | about == spoken
        assert str(thread) not in json.dumps(spoken)


def _the(lines: list[dict[str, Any]], event: str, message: UUID) -> dict[str, Any]:
    """The first of these events about a message."""
    found = [line for line in lines if line["event"] == event and line.get("message_id") == str(message)]
    assert found, f"no {event} about {message}"
    return found[0]
