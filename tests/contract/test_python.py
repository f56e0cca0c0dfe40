"""The contract's Python part: state, models, the process-wide tracker and registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from unittest.mock import MagicMock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.contract.looking import Greeting, hello_pump
from tests.contract.target import Target, in_process_target
from xml_pipeline.llm import get_usage_tracker, reset_usage_tracker
from xml_pipeline.message_bus import get_budget_registry, reset_budget_registry
from xml_pipeline.server.api import create_router
from xml_pipeline.server.app import create_app
from xml_pipeline.server.models import (
    AgentInfo,
    AgentState,
    CapabilityDetail,
    CapabilityInfo,
    MessageInfo,
    OrganismInfo,
    OrganismStatus,
    ThreadInfo,
    ThreadStatus,
)
from xml_pipeline.server.state import AgentRuntimeState, ServerState


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    reset_usage_tracker()
    reset_budget_registry()
    yield
    reset_usage_tracker()
    reset_budget_registry()


@pytest.fixture
def target() -> Target:
    return in_process_target(TestClient(create_app(hello_pump())))


@pytest.fixture
def state() -> ServerState:
    return ServerState(hello_pump())


async def record(state: ServerState, thread: str = "t", to: str = "greeter", **payload: object) -> str:
    return await state.record_message(
        thread_id=thread, from_id="api", to_id=to, payload_type="Greeting", payload=payload
    )


class TestState:
    def test_it_is_made_outside_an_event_loop_and_starts(self, state: ServerState) -> None:
        info = state.get_organism_info()
        assert isinstance(info, OrganismInfo)
        assert (info.status, info.agent_count, info.total_messages) == (OrganismStatus.STARTING, 2, 0)
        state.set_running()
        assert state.get_organism_info().status is OrganismStatus.RUNNING

    def test_its_agents(self, state: ServerState) -> None:
        assert all(isinstance(agent, AgentRuntimeState) for agent in state._agents.values())
        assert set(state._agents) == {"greeter", "shouter"}
        assert isinstance(state.get_agents()[0], AgentInfo)
        assert state.get_agent("nobody") is None

    def test_its_configuration_is_a_dict(self, state: ServerState) -> None:
        assert state.get_organism_config()["listeners"] == ["greeter", "shouter"]

    def test_its_capabilities(self, state: ServerState) -> None:
        assert [type(row) for row in state.get_capabilities()] == [CapabilityInfo, CapabilityInfo]
        assert isinstance(state.get_capability("greeter"), CapabilityDetail)
        assert state.get_capability("nobody") is None

    async def test_a_message_begins_a_thread(self, state: ServerState) -> None:
        id_ = await record(state, name="Dan")
        messages, total = state.get_messages()
        assert (total, messages[0].id, messages[0].payload) == (1, id_, {"name": "Dan"})
        thread = state.get_thread("t")
        assert thread is not None
        assert (thread.status, thread.message_count) == (ThreadStatus.ACTIVE, 1)
        assert thread.participants == ["api", "greeter"]

    async def test_agents_count_what_they_send(self, state: ServerState) -> None:
        await state.record_message(thread_id="t", from_id="greeter", to_id="shouter", payload_type="x", payload={})
        counts = {agent.name: agent.message_count for agent in state.get_agents()}
        assert counts == {"greeter": 1, "shouter": 0}

    async def test_an_agent_works(self, state: ServerState) -> None:
        await state.update_agent_state("greeter", AgentState.PROCESSING, "t")
        agent = state.get_agent("greeter")
        assert agent is not None
        assert (agent.state, agent.current_thread) == (AgentState.PROCESSING, "t")
        await state.update_agent_state("nobody", AgentState.IDLE, None)

    async def test_a_thread_ends(self, state: ServerState) -> None:
        await record(state)
        await state.complete_thread("t", ThreadStatus.COMPLETED)
        assert state.get_threads(status=ThreadStatus.COMPLETED)[1] == 1
        assert state.get_threads(status=ThreadStatus.ACTIVE)[1] == 0

    async def test_a_killed_thread_stays_killed(self, state: ServerState) -> None:
        await record(state)
        await state.complete_thread("t", ThreadStatus.KILLED)
        await state.complete_thread("t", ThreadStatus.COMPLETED)
        thread = state.get_thread("t")
        assert thread is not None
        assert thread.status is ThreadStatus.KILLED

    async def test_lists_are_filtered_and_paged(self, state: ServerState) -> None:
        for number in range(5):
            await record(state, f"t{number}", "greeter" if number % 2 else "shouter", number=number)
        threads, total = state.get_threads(limit=2, offset=1)
        assert ([thread.id for thread in threads], total) == (["t3", "t2"], 5)
        assert state.get_threads(agent="greeter")[1] == 2
        messages, total = state.get_messages(agent="shouter", limit=2)
        assert (len(messages), total) == (2, 3)
        assert state.get_messages(thread_id="t1")[1] == 1
        assert state.get_threads(since=datetime.now(UTC) + timedelta(hours=1))[1] == 0

    async def test_the_history_is_bounded(self) -> None:
        state = ServerState(hello_pump(), history=3)
        for number in range(5):
            await record(state, number=number)
        messages, total = state.get_messages()
        assert ([message.payload["number"] for message in messages], total) == ([4, 3, 2], 3)
        assert state.get_organism_info().total_messages == 5

    async def test_updates_reach_websockets_from_other_loops(self) -> None:
        app = create_app(hello_pump())
        target = in_process_target(TestClient(app))
        with target.socket(events=["message"]) as socket:
            await asyncio.to_thread(lambda: asyncio.run(record(app.state.server_state, name="Dan")))
            assert (await asyncio.to_thread(socket.receive))["message"]["payload"] == {"name": "Dan"}


class TestEvents:
    """What a pump tells, in any of its spellings."""

    def test_messages(self) -> None:
        pump = hello_pump()
        state = ServerState(pump)
        common = {"payload_type": "Greeting", "payload": Greeting(name="Dan"), "thread_id": "t"}
        pump.tell({"event": "message", "from_id": "api", "to_id": "greeter", **common})
        pump.tell({"event": "message", "message": {"from": "greeter", "to": "shouter", **common}})
        pump.tell(MagicMock(spec_set=["from_id", "to_id", *common], from_id="shouter", to_id="greeter", **common))
        messages, total = state.get_messages(thread_id="t")
        assert total == 3
        assert [message.payload for message in messages] == [{"name": "Dan"}] * 3

    def test_agents_and_threads(self) -> None:
        pump = hello_pump()
        state = ServerState(pump)
        pump.tell({"from_id": "api", "to_id": "greeter", "thread_id": "t"})
        pump.tell({"event": "agent_state", "agent": "greeter", "state": "waiting", "current_thread": "t"})
        pump.tell({"event": "thread_updated", "threadId": "t", "status": "error", "error": "no"})
        agent, thread = state.get_agent("greeter"), state.get_thread("t")
        assert agent is not None
        assert thread is not None
        assert agent.state is AgentState.WAITING
        assert (thread.status, thread.error) == (ThreadStatus.ERROR, "no")

    def test_usage_is_passed_on(self) -> None:
        pump = hello_pump()
        target = in_process_target(TestClient(create_app(pump)))
        with target.socket(events=["usage", "budget"]) as socket:
            for event in ({"event": "usage", "threadId": "t", "totalTokens": 5}, {"event": "budget", "threadId": "t"}):
                pump.tell(event)
                assert socket.receive() == event

    @pytest.mark.parametrize("event", [None, 5, "x", {}, {"event": "agent_state"}, {"event": "message", "to": "x"}])
    def test_what_is_not_understood_harms_nobody(self, event: object) -> None:
        pump = hello_pump()
        state = ServerState(pump)
        pump.tell(event)
        assert state.get_organism_info().total_messages == 0

    async def test_the_callback_may_be_awaited(self) -> None:
        pump = hello_pump()
        ServerState(pump)
        result = pump.callbacks[0]({"event": "error", "error": "x"})
        await result  # type: ignore[misc]


class TestModels:
    def test_both_spellings_construct(self) -> None:
        assert AgentInfo(name="a", is_agent=True) == AgentInfo.model_validate({"name": "a", "isAgent": True})
        one = MessageInfo(id="1", thread_id="t", from_id="a", to_id="b")
        assert one == MessageInfo.model_validate({"id": "1", "threadId": "t", "from": "a", "to": "b"})
        assert one.model_dump(by_alias=True)["from"] == "a"
        assert one.model_dump()["from_id"] == "a"

    def test_defaults(self) -> None:
        agent, thread = AgentInfo(name="a"), ThreadInfo(id="t")
        assert (agent.state, agent.current_thread, agent.queue_depth) == (AgentState.IDLE, None, 0)
        assert (thread.status, thread.error, thread.message_count) == (ThreadStatus.ACTIVE, None, 0)


class TestUsage:
    def test_sums(self, target: Target) -> None:
        million = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
        get_usage_tracker().record(
            thread_id="t", agent_id="greeter", model="grok-4.1", provider="xai", latency_ms=100.0, **million
        )
        get_usage_tracker().record(
            thread_id="t",
            agent_id="shouter",
            model="no/price",
            provider="none",
            prompt_tokens=1,
            completion_tokens=2,
            latency_ms=300.0,
        )
        usage = target.get("/usage")["usage"]
        assert usage["totals"] == {
            "totalTokens": 2_000_003,
            "promptTokens": 1_000_001,
            "completionTokens": 1_000_002,
            "requestCount": 2,
            "totalCost": 18.0,
            "avgLatencyMs": 200.0,
        }
        assert target.get("/usage/agents/greeter")["totalCost"] == 18.0
        assert target.get("/usage/models/no/price")["totalTokens"] == 3
        assert target.get("/usage/models/no/price")["totalCost"] == 0
        target.post("/usage/reset")
        assert target.get("/usage")["usage"]["totals"]["totalTokens"] == 0

    def test_the_tracker_is_looked_up_at_each_request(self, target: Target) -> None:
        reset_usage_tracker()
        get_usage_tracker().record(
            thread_id="t",
            agent_id="greeter",
            model="m",
            provider="p",
            prompt_tokens=1,
            completion_tokens=1,
            latency_ms=1.0,
        )
        assert target.get("/usage")["usage"]["byAgent"][0]["agentId"] == "greeter"
        assert target.get("/usage")["usage"]["byModel"][0]["model"] == "m"

    def test_budgets(self, target: Target) -> None:
        registry = get_budget_registry()
        registry.consume("t", 3000, 1500)
        registry.consume("u", 90_000, 20_000)
        assert target.get("/usage/threads/t") == {
            "threadId": "t",
            "maxTokens": 100_000,
            "promptTokens": 3000,
            "completionTokens": 1500,
            "totalTokens": 4500,
            "remaining": 95_500,
            "percentUsed": 4.5,
            "isExhausted": False,
        }
        rows = target.get("/usage/threads")["threads"]
        assert [row["threadId"] for row in rows] == ["u", "t"]
        assert (rows[0]["remaining"], rows[0]["isExhausted"]) == (0, True)
        assert target.get("/usage")["usage"]["activeThreads"] == 2

    def test_looking_at_a_budget_makes_none(self, target: Target) -> None:
        assert target.status("/usage/threads/t") == 404
        assert not get_budget_registry().has_budget("t")

    def test_a_reset_keeps_budgets(self, target: Target) -> None:
        get_budget_registry().consume("t", 1, 1)
        target.post("/usage/reset")
        assert target.get("/usage/threads/t")["totalTokens"] == 2


def test_a_router_in_an_app_of_ones_own() -> None:
    app = FastAPI()
    app.include_router(create_router(ServerState(hello_pump())))
    client = TestClient(app)
    assert client.get("/health").status_code == 200
    assert client.get("/api/v1/agents/nobody").json()["code"] == "unknown-agent"
    assert client.post("/api/v1/inject", json={}).json()["errors"]


def test_a_stand_in_for_a_pump() -> None:
    """Objects that answer for every name do not offer everything."""
    pump = MagicMock()
    pump.config.name = "stand-in"
    pump.identity = None
    listener = MagicMock(is_agent=True, peers=["other"], schema=None, root_tag="one.thing", payload_class=MagicMock())
    listener.name, listener.description = "one", "One"
    listener.payload_class.__name__, listener.payload_class.__module__ = "Thing", "some.where"
    pump.listeners = {"one": listener}
    target = in_process_target(TestClient(create_app(pump)))
    assert target.get("/organism/config")["port"] == 8080
    assert target.get("/agents/one")["payloadClass"] == "some.where.Thing"
    assert target.post("/inject", {"to": "one", "payload": {"a": 1}}).status_code == 200
    for path in ("/organism/reload", "/agents/one/pause", "/agents/one/resume", "/organism/stop"):
        assert target.post(path).json()["success"] is True
    pump.inject.assert_not_called()
