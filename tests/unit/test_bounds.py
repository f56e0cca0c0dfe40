"""What would grow with time or load does not."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
from starlette.types import Message, Receive, Scope, Send

from tests.contract.looking import hello_pump
from xml_pipeline.envelope.codec import MAX_TURN_BYTES, decode_turn
from xml_pipeline.envelope.model import Assignment, Envelope, Kind, Outcome, Output
from xml_pipeline.llm import usage_tracker
from xml_pipeline.llm.usage_tracker import UsageTracker
from xml_pipeline.message_bus import budget_registry
from xml_pipeline.message_bus.budget_registry import BudgetRegistry
from xml_pipeline.message_bus.limits import MAX_BODY_BYTES
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.memory_broker import MemoryQueue
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import OWN_QUEUE_MAX_BYTES, OWN_QUEUE_MAX_LENGTH, Names, organism_topology
from xml_pipeline.routing.workers import LIFETIME, LiveWorkers
from xml_pipeline.server import state as server_state
from xml_pipeline.server.body_limit import BodyLimit
from xml_pipeline.server.feed import Event, Hub
from xml_pipeline.server.live.limits import MOST_UNPUBLISHED, MOST_UNPUBLISHED_BYTES
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.live.presence import ALIVE_FOR, Presence
from xml_pipeline.server.models import ThreadStatus
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.state import ServerState
from xml_pipeline.worker.desk import turn_body
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.outbox import Outbox as WorkerOutbox
from xml_pipeline.worker.reloads import Reload, Reloads
from xml_pipeline.worker.wire import Done

NAMES = Names("o")
TOPOLOGY = organism_topology("o", [])


def event(size: int) -> Event:
    return Event("message", {"event": "message", "message": {"x": "x" * size}})


class TestSlowWebSocket:
    async def test_is_dropped_by_the_size_of_what_waits(self) -> None:
        hub = Hub()
        subscription = hub.subscribe(lambda one: one.text)
        subscription.size_limit = 1000
        for _ in range(3):
            hub.publish(event(400))
        assert not subscription.lagged.is_set()
        hub.publish(event(1))
        assert subscription.lagged.is_set()
        assert len(subscription.take()) == 3

    async def test_that_reads_again_in_time_has_all_its_room_again(self) -> None:
        hub = Hub()
        subscription = hub.subscribe(lambda one: one.text)
        subscription.size_limit = 1000
        for _ in range(20):
            hub.publish(event(900))
            assert len(subscription.take()) == 1
        assert not subscription.lagged.is_set()


class TestGatewayOutbox:
    @pytest.mark.parametrize(
        ("size", "most"), [(1, MOST_UNPUBLISHED), (1024 * 1024, MOST_UNPUBLISHED_BYTES // (1024 * 1024))]
    )
    async def test_leaves_out_what_does_not_fit_and_takes_again_what_does(self, size: int, most: int) -> None:
        bus = MemoryBroker().connect()
        await bus.declare(TOPOLOGY)
        outbox, body = Outbox(bus, NAMES), b"x" * size
        for _ in range(most + 50):
            outbox.inject("id", body, "")
        running = asyncio.create_task(outbox.run())
        await outbox.flush()
        assert await bus.depth(NAMES.ingress) == most
        outbox.inject("id", body, "")
        await outbox.flush()
        assert await bus.depth(NAMES.ingress) == most + 1
        running.cancel()


async def test_what_a_worker_repeats_anyway_does_not_pile_up() -> None:
    broker = MemoryBroker()
    bus = broker.connect()
    await bus.declare(TOPOLOGY)
    outbox = WorkerOutbox(bus, lambda: TOPOLOGY)
    confirmed: list[int] = []
    for _ in range(5000):
        outbox.post_once(Outgoing("", NAMES.usage, b"ask"))
    outbox.post(Outgoing("", NAMES.ingress, b"turn"), lambda: confirmed.append(1))
    running = asyncio.create_task(outbox.run())
    async with asyncio.timeout(10):
        while not confirmed:  # noqa: ASYNC110 - the outbox tells of confirms only
            await asyncio.sleep(0.01)
    running.cancel()
    assert await bus.depth(NAMES.usage) == 2000


class TestReloads:
    async def test_only_the_newest_counts(self) -> None:
        reloads = Reloads()
        for version in range(1000):
            reloads.want(Reload(version, None))
        reloads.want(Reload(5, "old"))
        assert await reloads.next() == Reload(999, None)

    async def test_of_one_version_the_text_counts(self) -> None:
        reloads = Reloads()
        for reload in (Reload(2, None), Reload(2, "text"), Reload(2, None)):
            reloads.want(reload)
        assert await reloads.next() == Reload(2, "text")

    async def test_it_waits_for_one(self) -> None:
        reloads = Reloads()
        waiting = asyncio.create_task(reloads.next())
        await asyncio.sleep(0)
        reloads.want(Reload(1, None))
        assert await waiting == Reload(1, None)


def _beat(service: str, number: int) -> Heartbeat:
    return Heartbeat.model_validate({"service": service, "instance": f"i{number}"})


def test_services_that_are_gone_are_forgotten_though_nobody_asks() -> None:
    presence, workers = Presence(), LiveWorkers(0.0)
    for number in range(1000):
        presence.note(_beat("router", number), number * ALIVE_FOR)
        workers.hear(_beat("agent-worker", number), number * LIFETIME)
    assert len(presence._last) <= 2
    assert len(workers._heard) <= 2


def test_a_queue_of_ones_own_drops_its_oldest_by_size_too() -> None:
    queue = MemoryQueue("own", max_length=100, max_bytes=1000)
    for number in range(50):
        queue.append(Outgoing("", "own", b"%02d" % number + b"x" * 98), {})
    assert [stored.message.body[:2] for stored in queue.ready] == [b"%02d" % number for number in range(40, 50)]


async def test_a_subscriber_has_such_a_queue() -> None:
    broker = MemoryBroker()
    await broker.connect().subscribe([])
    [queue] = broker.state.queues.values()
    assert (queue.max_length, queue.max_bytes) == (OWN_QUEUE_MAX_LENGTH, OWN_QUEUE_MAX_BYTES)


class TestLooking:
    def test_threads_are_forgotten_the_ended_first_and_the_killed_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_state, "THREAD_LIMIT", 20)
        state = ServerState(hello_pump())

        def note(thread: str, status: ThreadStatus | None = None) -> None:
            state.note_message(thread, "api", "greeter", "x", {})
            if status is not None:
                state.note_thread_status(thread, status)

        note("killed", ThreadStatus.KILLED)
        note("active")
        for number in range(100):
            note(f"t{number}", ThreadStatus.COMPLETED)
        kept, total = state.get_threads(limit=100)
        assert total <= 20
        ids = {thread.id for thread in kept}
        assert {"killed", "active", "t99"} <= ids
        assert "t0" not in ids
        for number in range(100):
            note(f"u{number}")
        assert state.get_thread("active") is None
        killed = state.get_thread("killed")
        assert killed is not None
        assert killed.status is ThreadStatus.KILLED

    def test_budgets_are_forgotten_by_last_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(budget_registry, "MOST_BUDGETS", 3)
        registry = BudgetRegistry()
        for thread in ("a", "b", "c", "a", "d"):
            registry.consume(thread, 1, 1)
        assert [budget.thread_id for budget in registry.budgets()] == ["c", "a", "d"]
        assert not registry.has_budget("b")

    def test_sums_stay_right_when_there_are_too_many_to_tell_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(usage_tracker, "MOST_SUMS", 5)
        monkeypatch.setattr(usage_tracker, "MOST_THREADS", 5)
        tracker = UsageTracker()
        for number in range(20):
            tracker.record(
                thread_id=f"t{number}",
                agent_id=f"a{number}",
                model="m",
                provider="p",
                prompt_tokens=1,
                completion_tokens=1,
                latency_ms=1.0,
            )
        assert tracker.totals().total_tokens == 40
        assert len(tracker.by_agent()) == 6
        assert tracker.thread_count == 5


class TestTurns:
    def _job(self) -> Job:
        envelope = Envelope("api", "a", uuid4(), b"<a.x></a.x>")
        return Job("a", Assignment(uuid4(), 1, Kind.REQUEST, UUID(int=1), 1, 30.0, 0, (), envelope))

    def test_one_that_no_broker_carries_is_an_error(self) -> None:
        payload = b"<a.x>" + b"x" * (1024 * 1024) + b"</a.x>"
        outputs = tuple(Output(Kind.REQUEST, "b", payload) for _ in range(17))
        turn = decode_turn(turn_body(self._job(), Done(1, Outcome.OK, outputs)))
        assert turn.outcome is Outcome.ERROR
        assert turn.outputs == ()
        assert str(MAX_TURN_BYTES) in (turn.reason or "")
        assert MAX_TURN_BYTES <= MAX_BODY_BYTES


class TestBodies:
    async def test_one_that_does_not_arrive_is_given_up(self) -> None:
        never = asyncio.Event()

        async def receive() -> Message:
            await never.wait()
            return {}

        with pytest.raises(Problem) as caught:
            await self._read(1, receive)
        assert (caught.value.status_code, caught.value.code) == (408, "too-slow")

    async def test_who_waits_for_the_clients_leaving_may_wait(self) -> None:
        arrived: list[Message] = [{"type": "http.request", "body": b"x", "more_body": False}]

        async def receive() -> Message:
            if arrived:
                return arrived.pop()
            await asyncio.sleep(0.2)
            return {"type": "http.disconnect"}

        await self._read(2, receive)
        assert not arrived

    async def _read(self, count: int, receive: Receive) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(count):
                await receive()

        async def send(_: Message) -> None:
            return

        await BodyLimit(app, 100, seconds=0.05)({"type": "http", "headers": []}, receive, send)
