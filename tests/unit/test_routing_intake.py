"""What the router makes of bytes, of heartbeats, of windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from tests.support import routing as given
from xml_pipeline.envelope.codec import encode_assignment, encode_turn
from xml_pipeline.envelope.model import Assignment, Envelope, Kind
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.organism.model import Limits
from xml_pipeline.routing.current import Configured, Current
from xml_pipeline.routing.intake import Intake
from xml_pipeline.routing.items import Inject, Item, Junk, Returned, TurnReport
from xml_pipeline.routing.windows import DEADLINE_MARGIN, fill_windows
from xml_pipeline.routing.workers import LIFETIME, LiveWorkers
from xml_pipeline.storage.routing_rows import ListenerRow, Released, Room

ORGANISM = given.organism(given.listener("ann", timeout=7.0), limits=Limits(max_envelope_bytes=500))
INTAKE = Intake(Current(Configured(ORGANISM, 1, given.TagCheck())))


def _delivery(body: bytes, message_id: object = None) -> Incoming:
    headers = {} if message_id is None else {"message-id": str(message_id)}
    return Incoming(1, 1, "q", "", "q", body, headers, redelivered=False)


def _read(body: bytes, message_id: object = None) -> Item:
    (item,) = INTAKE.ingress([_delivery(body, message_id)])
    return item


def test_an_inject_is_known_by_its_id_alone() -> None:
    made = given.inject("ann")
    assert _read(made.body, made.id) == Inject(made.id, made.body)
    declared = b'<?xml version="1.0"?>' + made.body
    assert _read(declared, made.id) == Inject(made.id, declared)


def test_a_turn_is_a_turn_whatever_its_headers_say() -> None:
    report = given.ok(uuid4(), given.ask("ann"))
    body = encode_turn(report.turn)
    assert _read(body) == _read(body, uuid4()) == TurnReport(report.turn, body)


def test_an_output_beyond_the_limit_comes_as_malformed() -> None:
    item = _read(encode_turn(given.ok(uuid4(), given.ask("ann", "x" * 600)).turn))
    assert isinstance(item, TurnReport)
    assert item.turn.outputs[0].payload is None


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"<turn/>", b"<!DOCTYPE a><a/>", b"<assignment/>"])
def test_what_cannot_be_read_is_junk(body: bytes) -> None:
    item = _read(body, "no uuid")
    assert isinstance(item, Junk)
    assert (item.code, item.body) == ("unreadable", body)


def test_an_envelope_without_an_id_was_accepted_by_nobody() -> None:
    item = _read(given.inject("ann").body)
    assert isinstance(item, Junk)
    assert item.code == "not-accepted"


def test_an_assignment_is_believed_only_as_a_dead_letter_of_the_broker() -> None:
    envelope = Envelope("api", "ann", uuid4(), given.question("ann"))
    assignment = Assignment(uuid4(), 3, Kind.REQUEST, uuid4(), 1, 7.0, 0, (), envelope)
    delivery = _delivery(encode_assignment(assignment), assignment.message_id)
    assert INTAKE.dead([delivery]) == [Returned(assignment.message_id, 3)]
    assert isinstance(INTAKE.ingress([delivery])[0], Junk)
    assert isinstance(INTAKE.dead([_delivery(b"<assignment ")])[0], Junk)


def _heartbeat(instance: str, capacity: int, service: str = "agent-worker") -> Heartbeat:
    data = {"service": service, "instance": instance, "listeners": ("ann",), "capacity": capacity}
    return Heartbeat.model_validate(data)


def test_capacity_is_the_sum_over_live_workers() -> None:
    workers = LiveWorkers(started_at=0.0)
    workers.hear(_heartbeat("one", 8), 3.0)
    workers.hear(_heartbeat("two", 4), 5.0)
    workers.hear(_heartbeat("two", 5), 6.0)
    workers.hear(_heartbeat("router", 99, "router"), 6.0)
    assert not workers.all_heard(LIFETIME - 0.1)
    assert workers.all_heard(LIFETIME)
    assert workers.capacities(["ann", "bob"], 7.0) == {"ann": 13, "bob": 0}
    assert workers.capacities(["ann"], 9.0) == {"ann": 5}
    assert workers.capacities(["ann"], 60.0) == {"ann": 0}


@dataclass
class _Windows:
    """Remembers what it was asked for."""

    listeners: list[ListenerRow]
    rooms: list[Room] = field(default_factory=list)

    async def lock_listeners(self, names: Iterable[str]) -> list[ListenerRow]:
        return self.listeners

    async def count_out(self, names: Sequence[str]) -> dict[str, int]:
        return {"ann": 3, "full": 9}

    async def release(self, rooms: Sequence[Room]) -> list[Released]:
        self.rooms += rooms
        return []


async def test_windows_leave_room_to_those_who_are_neither_full_nor_paused() -> None:
    listeners = [
        ListenerRow("ann", is_agent=True, paused=False, window=10),
        ListenerRow("full", is_agent=True, paused=False, window=4),
        ListenerRow("gone", is_agent=False, paused=False, window=2),
        ListenerRow("paused", is_agent=True, paused=True, window=5),
    ]
    store = _Windows(listeners)
    fill = await fill_windows(store, ("ann", "full", "gone", "paused"), ORGANISM)
    assert store.rooms == [
        Room("ann", 7, is_agent=True, timeout=7.0 + DEADLINE_MARGIN),
        Room("gone", 2, is_agent=False, timeout=30.0 + DEADLINE_MARGIN),
    ]
    assert fill.out_before == {"ann": 3, "full": 9, "gone": 0, "paused": 0}
