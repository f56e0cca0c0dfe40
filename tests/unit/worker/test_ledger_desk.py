"""A child that was taken over asks for what is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from xml_pipeline.envelope.model import Assignment, Envelope, Kind
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent, ledger_message
from xml_pipeline.message_bus.port import Bus, Consumer, Outgoing
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.metrics.registry import Metrics
from xml_pipeline.worker import ledger_desk
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.ledger_client import LedgerClient
from xml_pipeline.worker.ledger_desk import LedgerDesk
from xml_pipeline.worker.member import Member, make_member
from xml_pipeline.worker.metrics import WorkerMetrics
from xml_pipeline.worker.outbox import Outbox
from xml_pipeline.worker.tasks import end_tasks
from xml_pipeline.worker.wire import LedgerAsk

NAMES = Names("o")
METRICS = WorkerMetrics(Metrics())
TOPOLOGY = organism_topology("o", [])


class Office:
    """A desk on a bus, and the usage queue to read."""

    def __init__(self, bus: Bus, desk: LedgerDesk, usage: Consumer) -> None:
        self._bus = bus
        self.desk = desk
        self._usage = usage
        self.member: Member = make_member(0, alone=False, on_message=lambda *_: None, on_lost=lambda *_: None)
        envelope = Envelope("api", "a", uuid4(), b"<a.x></a.x>")
        self.job = Job("a", Assignment(uuid4(), 1, Kind.REQUEST, uuid4(), 1, 30.0, 0, (), envelope))

    def ask(self, message: HoldRequest | UsageEvent | HoldRelease, *, running: bool = True) -> None:
        ask = LedgerAsk(1, 1, message.model_dump_json().encode())
        self.desk.asked(self.member, self.job if running else None, ask)

    async def sent(self) -> HoldRequest | UsageEvent | HoldRelease:
        """The next message on the usage queue."""
        async with asyncio.timeout(20):
            [delivery] = await self._usage.batch(1)
        await self._usage.ack([delivery])
        message = ledger_message.validate_json(delivery.body)
        if isinstance(message, HoldRequest) and delivery.reply_to is not None:
            reply = HoldReply(call_id=message.call_id, state="granted", granted_at=GRANTED)
            await self._bus.publish([Outgoing("", delivery.reply_to, reply.model_dump_json().encode())])
        return message


GRANTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    bus = MemoryBroker().connect()
    await bus.declare(TOPOLOGY)
    outbox = Outbox(bus, lambda: TOPOLOGY)
    client = LedgerClient(bus, NAMES, outbox, METRICS)
    await client.open()
    tasks = [asyncio.create_task(part) for part in (outbox.run(), client.run())]
    yield Office(bus, LedgerDesk(client, METRICS), await bus.consume(NAMES.usage, prefetch=10))
    await end_tasks(tasks)
    await bus.close()


def hold(call: UUID) -> HoldRequest:
    return HoldRequest(
        call_id=call, message_id=uuid4(), model="m", provider="p", prompt_bound=1, max_completion=1, lifetime=60
    )


def usage(call: UUID) -> UsageEvent:
    return UsageEvent(
        call_id=call,
        message_id=uuid4(),
        granted_at=datetime.now(UTC),
        model="m",
        provider="p",
        prompt_tokens=1,
        completion_tokens=1,
        latency_ms=1.0,
    )


async def test_a_hold_is_for_the_message_that_the_child_runs(office: Office) -> None:
    office.ask(hold(uuid4()))
    sent = await office.sent()
    assert isinstance(sent, HoldRequest)
    assert sent.message_id == office.job.assignment.message_id


async def test_a_call_is_settled_as_it_was_granted(office: Office) -> None:
    call = uuid4()
    office.ask(hold(call))
    await office.sent()
    async with asyncio.timeout(20):
        while not office.desk.has_granted(office.member, call):  # noqa: ASYNC110
            await asyncio.sleep(0)
    office.ask(usage(call), running=False)
    sent = await office.sent()
    assert isinstance(sent, UsageEvent)
    assert (sent.message_id, sent.granted_at) == (office.job.assignment.message_id, GRANTED)


async def test_nothing_is_booked_that_was_not_granted(office: Office) -> None:
    office.ask(usage(uuid4()))
    office.ask(HoldRelease(call_id=uuid4()))
    call = uuid4()
    office.ask(hold(call))
    sent = await office.sent()
    assert isinstance(sent, HoldRequest)
    assert sent.call_id == call


async def test_no_hold_for_a_handler_that_has_ended(office: Office) -> None:
    office.ask(hold(uuid4()), running=False)
    call = uuid4()
    office.ask(hold(call))
    assert (await office.sent()).call_id == call


async def test_what_a_dead_child_was_asking_for_is_given_back(office: Office) -> None:
    call = uuid4()
    office.ask(hold(call))
    office.desk.left(office.member)
    sent = [await office.sent()]
    if isinstance(sent[-1], HoldRequest):
        sent.append(await office.sent())
    assert sent[-1] == HoldRelease(call_id=call)


async def _granted(office: Office, call: UUID, lifetime: float = 60.0) -> None:
    office.ask(hold(call).model_copy(update={"lifetime": lifetime}))
    await office.sent()
    async with asyncio.timeout(20):
        while not office.desk.has_granted(office.member, call):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_child_has_so_many_calls_and_no_more(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_desk, "MOST_CALLS", 2)
    first, second = uuid4(), uuid4()
    await _granted(office, first)
    await _granted(office, second)
    office.ask(hold(uuid4()))
    office.ask(usage(first), running=False)
    settled = await office.sent()
    assert isinstance(settled, UsageEvent)
    await _granted(office, uuid4())


async def test_calls_that_were_never_settled_make_room_when_their_time_is_over(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_desk, "MOST_CALLS", 2)
    for _ in range(10):
        await _granted(office, uuid4(), lifetime=0.000001)
