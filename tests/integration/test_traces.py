"""The trace of a thread, exported by services as processes: every hop, with the right parent; runs again, linked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import httpx
import pytest

from tests.support.collector import Collected, Collector, collecting
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organisms import renamed
from tests.support.processes import wait_until
from xml_pipeline.tracing.ids import (
    attempt_span,
    booking_span,
    call_span,
    inject_span,
    message_span,
    thread_span,
    trace_of,
)

CLIENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CLIENT_TRACE, CLIENT_SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
ONCE = {"Idempotency-Key": "one study"}
TOPIC = "the migration of eels"
MESSAGES, CALLS = 24, 12
SERVICES = {"gateway": 1, "usage": 1, "router": 2, "agent-worker": 2}


@contextmanager
def _research_team(
    amqp_url: str, database_url: str, name: str, folder: Path, services: Mapping[str, int]
) -> Iterator[tuple[Fleet, Collector]]:
    file = renamed(ROOT / "examples" / "research-team", name, folder / "organism")
    with collecting() as collector:
        fleet = Fleet(file, amqp_url, database_url, folder, collector.environment)
        with running(fleet, services):
            yield fleet, collector


def _study(url: str, **headers: str) -> Any:
    body = {"to": "planner", "payload": {"topic": TOPIC}}
    wait = {"Prefer": "wait=60", **headers}
    answer = httpx.post(f"{url}/api/v1/inject", json=body, headers=wait, timeout=90.0)
    return answer.raise_for_status().json()


def _history(url: str, thread: UUID) -> list[dict[str, Any]]:
    path = f"{url}/api/v1/threads/{thread}/messages?limit=100"
    listed: list[dict[str, Any]] = httpx.get(path, timeout=30.0).raise_for_status().json()["messages"]
    return listed


async def _calls(database_url: str, thread: UUID) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(database_url)
    try:
        return list(await connection.fetch("select * from usage_events where thread_id = $1", thread))
    finally:
        await connection.close()


def _booked(call_id: UUID) -> int:
    return booking_span(call_id, "measured")


def _wait_for(collector: Collector, trace: int, wanted: Sequence[int]) -> dict[int, Collected]:
    """The trace, once these spans of it have arrived."""
    wait_until(
        lambda: set(wanted) <= collector.of_trace(trace).keys(), timeout=60.0, what="the trace is exported as a whole"
    )
    return collector.of_trace(trace)


def _causes(messages: Sequence[Mapping[str, Any]]) -> dict[UUID, UUID]:
    """Which message each one is an output of: its id is made of that one's."""
    ids = [UUID(message["id"]) for message in messages]
    made = {uuid5(id_, str(ordinal)): id_ for id_ in ids for ordinal in range(MESSAGES)}
    return {id_: made[id_] for id_ in ids if id_ in made}


async def test_the_trace_of_a_thread_has_every_hop_with_the_right_parent(
    amqp_url: str, database_url: str, organism_name: str, tmp_path: Path
) -> None:
    with _research_team(amqp_url, database_url, organism_name, tmp_path, SERVICES) as (fleet, collector):
        url = fleet.urls()[0]
        answer = _study(url, **ONCE, traceparent=CLIENT)
        assert _study(url, **ONCE) == answer
        thread, first = UUID(answer["threadId"]), UUID(answer["messageId"])
        messages = _history(url, thread)
        calls = await _calls(database_url, thread)
        assert (len(messages), len(calls)) == (MESSAGES, CALLS)
        ids = [UUID(message["id"]) for message in messages]
        handled = [UUID(message["id"]) for message in messages if message["to"] != "api"]
        wanted = [thread_span(thread), inject_span(first), *map(message_span, ids)]
        wanted += [attempt_span(id_, 1) for id_ in handled]
        wanted += [make(call["call_id"]) for call in calls for make in (call_span, _booked)]
        spans = _wait_for(collector, trace_of(thread), wanted)

    # They have stopped, and have exported all: what was asked for again, and what is done again, is told once.
    told = [span.span_id for span in collector.spans if span.trace_id == trace_of(thread)]
    assert sorted(told) == sorted(spans)
    _one_tree(spans, thread)
    _every_hop(spans, messages, first)
    _every_call(spans, calls)
    _the_client_sees_it(collector, spans[inject_span(first)])
    for body in collector.bodies:
        assert TOPIC.encode() not in body
        assert b"Plan a study" not in body


def _one_tree(spans: Mapping[int, Collected], thread: UUID) -> None:
    roots = [span.span_id for span in spans.values() if span.parent_id not in spans]
    assert roots == [thread_span(thread)]
    assert spans[roots[0]].parent_id == 0
    for span in spans.values():
        assert span.start_ns <= span.end_ns
        assert span.attributes.get("messaging.message.conversation_id", str(thread)) == str(thread)
        assert span.resource["service.instance.id"].startswith(span.service)


def _every_hop(spans: Mapping[int, Collected], messages: Sequence[Mapping[str, Any]], first: UUID) -> None:
    causes = _causes(messages)
    assert len(causes) == MESSAGES - 1
    for message in messages:
        id_ = UUID(message["id"])
        route = spans[message_span(id_)]
        assert (route.service, route.name, route.kind) == ("router", f"route {message['to']}", "producer")
        assert route.attributes["organism.from"] == message["from"]
        assert route.attributes["organism.slot_index"] == message["slotIndex"]
        parent = spans[route.parent_id]
        if id_ == first:
            assert (parent.service, parent.span_id) == ("gateway", inject_span(first))
        else:
            assert (parent.service, parent.name) == ("agent-worker", f"handle {message['from']}")
            assert parent.attributes["messaging.message.id"] == str(causes[id_])
    below = [span for span in spans.values() if span.name.startswith(("handle ", "wait "))]
    for span in below:
        assert span.parent_id == message_span(UUID(span.attributes["messaging.message.id"]))
    assert sum(span.name.startswith("handle ") for span in below) >= MESSAGES - 1
    assert sum(span.name.startswith("wait ") for span in below) >= MESSAGES - 1


def _every_call(spans: Mapping[int, Collected], calls: Sequence[asyncpg.Record]) -> None:
    for call in calls:
        chat = spans[call_span(call["call_id"])]
        turn = spans[chat.parent_id]
        assert turn.name == f"handle {call['agent_id']}"
        assert turn.attributes["messaging.message.id"] == str(call["message_id"])
        assert (chat.service, chat.kind, chat.name) == ("agent-worker", "client", f"chat {call['model']}")
        booked = spans[_booked(call["call_id"])]
        assert (booked.service, booked.parent_id) == ("usage", chat.span_id)
        for span in (chat, booked):
            assert span.attributes["gen_ai.request.model"] == call["model"]
            assert span.attributes["gen_ai.usage.input_tokens"] == call["prompt_tokens"]
            assert span.attributes["gen_ai.usage.output_tokens"] == call["completion_tokens"]


def _the_client_sees_it(collector: Collector, inject: Collected) -> None:
    """A span of its own trace, which links to the thread's, and is linked to by it."""
    (request,) = collector.of_trace(CLIENT_TRACE).values()
    assert (request.parent_id, request.kind, request.service) == (CLIENT_SPAN, "server", "gateway")
    assert request.links == ((inject.trace_id, inject.span_id),)
    assert inject.links == ((request.trace_id, request.span_id),)


@pytest.mark.chaos
@pytest.mark.timeout(240)
@pytest.mark.parametrize("action", ["kill", "stop"])
async def test_what_is_redelivered_is_a_span_of_its_own_linked_to_the_first(
    amqp_url: str, database_url: str, organism_name: str, tmp_path: Path, action: str
) -> None:
    """A worker dies, or is suspended, when its turn is with the broker and its delivery is not acked."""
    services = {"gateway": 1, "usage": 1, "router": 1, "agent-worker": 1}
    with _research_team(amqp_url, database_url, organism_name, tmp_path, services) as (fleet, collector):
        (healthy,) = fleet.of("agent-worker")
        failing = {"ORGANISM_FAILPOINTS": f"worker.before-ack={action}", "ORGANISM_LISTENERS": "planner"}
        weak = fleet.start_one("agent-worker", environment=failing)
        weak.wait_ready()
        healthy.terminate()
        thread, message = _inject_once(fleet.urls()[0])
        first = attempt_span(message, 1)
        wait_until(lambda: b"failpoint_reached" in weak.log.read_bytes(), timeout=60.0, what="the failpoint")
        fleet.start_one("agent-worker").wait_ready()
        wait_until(lambda: bool(_again(collector, thread, message)), timeout=120.0, what="the second run's span")
        (again,) = _again(collector, thread, message)
        assert again.attributes["organism.attempt"] == 1
        assert again.links == ((trace_of(thread), first),)
        assert again.span_id != first
        if action == "stop":
            weak.process.send_signal(SIGCONT)
            spans = _wait_for(collector, trace_of(thread), [first])
            assert spans[first].resource["service.instance.id"] != again.resource["service.instance.id"]
            assert spans[first].parent_id == again.parent_id == message_span(message)
            assert spans[first].links == ()


def _inject_once(url: str) -> tuple[UUID, UUID]:
    body = {"to": "planner", "payload": {"topic": TOPIC}}
    answer = httpx.post(f"{url}/api/v1/inject", json=body, timeout=30.0).raise_for_status().json()
    return UUID(answer["threadId"]), UUID(answer["messageId"])


def _again(collector: Collector, thread: UUID, message: UUID) -> list[Collected]:
    """Runs of a delivery that had been with somebody before: other messages were, too, and nobody had run them."""
    spans = collector.of_trace(trace_of(thread)).values()
    mine = [span for span in spans if span.attributes.get("messaging.message.id") == str(message)]
    return [span for span in mine if span.attributes.get("organism.redelivered")]
