"""Pumps and listeners of any make: what the API makes of them, and of what they raise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lxml import etree

from tests.contract.looking import Anything, Greeting, LookingListener, LookingPump, Shout, hello_pump
from tests.contract.target import Target, in_process_target, problem
from xml_pipeline.message_bus import get_budget_registry, reset_budget_registry
from xml_pipeline.message_bus.budget_registry import BudgetRegistry
from xml_pipeline.server.api import create_router
from xml_pipeline.server.app import create_app
from xml_pipeline.server.state import ServerState

XSD = """<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="odd.thing">
<xs:complexType><xs:sequence><xs:element name="text" type="xs:string"/>
<xs:element name="count" type="xs:int" minOccurs="0"/>
</xs:sequence></xs:complexType></xs:element></xs:schema>"""
GREETING = {"to": "greeter", "payload": {"name": "Dan"}}


def target_of(pump: Any) -> Target:
    return in_process_target(TestClient(create_app(pump)))


def odd(schema: object, payload_class: type = Anything) -> Target:
    listener = SimpleNamespace(
        name="odd",
        description="Odd",
        is_agent=False,
        peers=[],
        payload_class=payload_class,
        schema=schema,
        root_tag="odd.thing",
    )
    pump = LookingPump()
    pump.listeners = {"odd": listener}  # type: ignore[dict-item]
    return target_of(pump)


class TestSchemas:
    @pytest.fixture(params=["text", "bytes", "element", "compiled"])
    def schema(self, request: pytest.FixtureRequest) -> object:
        element = etree.fromstring(XSD)
        forms = {"text": XSD, "bytes": XSD.encode(), "element": element, "compiled": etree.XMLSchema(element)}
        return forms[request.param]

    @pytest.mark.parametrize("payload_class", [Anything, Shout, dict])
    def test_any_form_of_schema_is_kept_to(self, schema: object, payload_class: type) -> None:
        target = odd(schema, payload_class)
        assert target.post("/inject", {"to": "odd", "payload": {"text": "hi"}}).status_code == 200
        assert problem(target.post("/inject", {"to": "odd", "payload": {"txt": "hi"}}), 422)["errors"]

    def test_a_fault_tells_its_place(self) -> None:
        answer = odd(XSD).post("/inject", {"to": "odd", "payload": {"count": "many", "text": "hi"}})
        assert [fault["path"] for fault in problem(answer, 422)["errors"]] == ["count"]

    def test_it_is_shown_as_it_is(self) -> None:
        assert odd(XSD).get("/agents/odd/schema")["schema"] == XSD

    @pytest.mark.parametrize("schema", ["no schema", b"\xff", XSD.replace("odd.thing", "other.thing"), object()])
    def test_one_that_says_nothing_of_the_payload_refuses_nothing(self, schema: object) -> None:
        assert odd(schema).post("/inject", {"to": "odd", "payload": {"x": 1}}).status_code == 200


def test_a_class_is_told_by_its_module_and_name() -> None:
    @dataclass
    class Local:
        name: str

    pump = LookingPump(LookingListener("local", Local))
    assert target_of(pump).get("/agents/local")["payloadClass"] == f"{__name__}.Local"


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_a_router_is_included_with_or_without_the_prefix(prefix: str) -> None:
    app = FastAPI()
    app.include_router(create_router(ServerState(hello_pump())), prefix=prefix)
    client = TestClient(app)
    for path in ("/health", "/api/v1/agents/greeter", "/api/v1/usage/models/some/model"):
        assert client.get(path).status_code == 200
    assert client.get("/agents").status_code == 404
    assert client.post("/api/v1/inject", json=GREETING).status_code == 200
    paths = set(client.get("/openapi.json").json()["paths"]) - {"/health", "/livez", "/readyz"}
    assert all(path.count("/api/v1") == 1 for path in paths)


class TestInject:
    """The pump's own inject, in any of the forms that it may have."""

    @staticmethod
    async def _three(to: str, payload: dict[str, Any], thread_id: str | None = None) -> None:
        assert (to, payload) == ("greeter", {"name": "Dan"})
        assert thread_id

    @staticmethod
    def _two(to: str, payload: dict[str, Any]) -> None:
        assert (to, payload) == ("greeter", {"name": "Dan"})

    @staticmethod
    async def _other_names(target: str, body: dict[str, Any], thread: str) -> None:
        assert (target, body) == ("greeter", {"name": "Dan"})
        assert thread

    @staticmethod
    async def _names(**values: object) -> None:
        assert set(values) == {"to", "payload", "thread_id", "message_id"}

    @pytest.mark.parametrize("form", ["_three", "_two", "_other_names", "_names"])
    def test_it_gets_what_it_takes(self, form: str) -> None:
        pump = hello_pump()
        pump.inject = getattr(self, form)  # type: ignore[attr-defined]
        target = target_of(pump)
        message = target.inject()[1]
        assert target.get("/messages")["messages"][0]["id"] == message

    @pytest.mark.parametrize(
        ("error", "status"), [(ValueError("no"), 400), (KeyError("no"), 400), (RuntimeError("secret"), 500)]
    )
    def test_what_it_raises_is_a_problem(self, error: Exception, status: int) -> None:
        pump = hello_pump()
        pump.inject = AsyncMock(side_effect=error)  # type: ignore[attr-defined]
        target = target_of(pump)
        with target.socket(events=["agent_state"]) as socket:
            assert "secret" not in problem(target.post("/inject", GREETING), status)["detail"]
            socket.send_text('{"cmd": "inject", "to": "greeter", "payload": {"name": "Dan"}}')
            assert socket.receive()["event"] == "error"
        assert target.get("/threads", status="active")["total"] == 0

    def test_a_key_whose_inject_failed_may_be_used_again(self) -> None:
        pump = hello_pump()
        pump.inject = AsyncMock(side_effect=[RuntimeError, None])  # type: ignore[attr-defined]
        target = target_of(pump)
        assert target.post("/inject", GREETING, **{"Idempotency-Key": "k"}).status_code == 500
        assert target.post("/inject", GREETING, **{"Idempotency-Key": "k"}).status_code == 200


@pytest.mark.parametrize("what", ["pause", "resume", "kill", "stop"])
def test_what_steering_raises_is_a_problem(what: str) -> None:
    pump = hello_pump()
    setattr(pump, what, AsyncMock(side_effect=RuntimeError("secret")))
    target = target_of(pump)
    thread, _ = target.inject()
    path = {"kill": f"/threads/{thread}/kill", "stop": "/organism/stop"}.get(what, f"/agents/greeter/{what}")
    assert problem(target.post(path), 500)["code"] == "pump-failed"


def test_a_reload_that_fails_tells_why() -> None:
    pump = hello_pump()
    pump.reload = AsyncMock(side_effect=RuntimeError("line 3"))  # type: ignore[attr-defined]
    answer = target_of(pump).post("/organism/reload")
    assert (answer.status_code, answer.json()["success"], answer.json()["error"]) == (200, False, "line 3")


@pytest.mark.filterwarnings("error")
def test_a_pump_whose_every_method_is_a_coroutine_function() -> None:
    pump = AsyncMock()
    pump.config, pump.identity, pump.listeners = hello_pump().config, None, hello_pump().listeners
    app = create_app(pump)
    with TestClient(app) as client:
        assert client.post("/api/v1/inject", json=GREETING).status_code == 200
    pump.subscribe_events.assert_awaited_once()
    pump.unsubscribe_events.assert_awaited_once()


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, {"at": "2026-01-01T00:00:00Z"}),
        ({"a": Decimal("1.50"), "b": math.nan, "c": {1}, 2: "x"}, {"a": "1.50", "b": None, "c": [1], "2": "x"}),
        ({"a": b"\xff", "b": "\ud800", "c": Shout("hi")}, {"a": "_w==", "b": "\\ud800", "c": {"text": "hi"}}),
        (Greeting(name="Dan"), {"name": "Dan"}),
        (Shout("\udfff"), {"text": "\\udfff"}),
        (None, {}),
        ("text", {"value": "text"}),
    ],
)
async def test_any_payload_can_be_logged_and_shown(payload: Any, shown: dict[str, Any]) -> None:
    app = create_app(hello_pump())
    target = in_process_target(TestClient(app))
    with target.socket("/ws/messages") as socket:
        await app.state.server_state.record_message(
            thread_id="t", from_id="greeter", to_id="shouter", payload_type="x", payload=payload
        )
        assert socket.receive()["payload"] == shown
    assert target.get("/messages")["messages"][0]["payload"] == shown


def test_a_thread_id_is_text_that_xml_can_carry() -> None:
    problem(target_of(hello_pump()).post("/inject", {**GREETING, "threadId": "\x00"}), 422)


class TestBudgets:
    @pytest.fixture(autouse=True)
    def registry(self) -> Iterator[BudgetRegistry]:
        reset_budget_registry()
        yield get_budget_registry()
        reset_budget_registry()

    def test_a_pump_gets_nothing_for_a_thread_that_is_spent(self, registry: BudgetRegistry) -> None:
        pump = hello_pump()
        pump.inject = AsyncMock()  # type: ignore[attr-defined]
        target = target_of(pump)
        thread, _ = target.inject()
        registry.set_max_tokens(thread, 10)
        registry.consume(thread, 10, 1)
        refused = problem(target.post("/inject", GREETING | {"threadId": thread}), 402)
        assert {"code": "budget-exhausted", "scope": "thread", "remaining": 0}.items() <= refused.items()
        target.post(f"/usage/threads/{thread}/top-up", {"tokens": 5})
        assert target.inject(thread=thread)[0] == thread
        assert pump.inject.await_count == 2  # type: ignore[attr-defined]

    def test_one_to_look_at_records_whatever_is_left(self, registry: BudgetRegistry) -> None:
        target = target_of(hello_pump())
        registry.consume("spent", 100_000, 0)
        assert target.inject(thread="spent")[0] == "spent"
