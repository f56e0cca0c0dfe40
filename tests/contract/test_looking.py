"""The contract in process, on a pump that only looks."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.contract.looking import Anything, LookingListener, LookingPump, hello_pump
from tests.contract.rest_suite import RestSuite
from tests.contract.target import Target, in_process_target
from tests.contract.websocket_suite import WebSocketSuite
from xml_pipeline.server.app import create_app


@pytest.fixture(scope="module")
def looking() -> Target:
    """Its lifespan has not run: the app answers all the same."""
    return in_process_target(TestClient(create_app(hello_pump())))


class TestLooking(RestSuite, WebSocketSuite):
    @pytest.fixture
    def target(self, looking: Target) -> Target:
        return looking


def test_stop_is_recorded_by_the_state() -> None:
    target = in_process_target(TestClient(create_app(hello_pump())))
    answer = target.post("/organism/stop")
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert target.get("/organism")["status"] == "stopping"


def test_the_lifespan_makes_it_run() -> None:
    app = create_app(hello_pump())
    with TestClient(app) as client:
        assert in_process_target(client).get("/organism")["status"] == "running"
    assert in_process_target(TestClient(app)).get("/organism")["status"] == "stopped"


def test_the_configuration_tells_no_secret() -> None:
    target = in_process_target(TestClient(create_app(hello_pump())))
    assert "secret" not in str(target.get("/organism/config"))


def test_without_schema_any_payload_is_taken() -> None:
    pump = LookingPump(LookingListener("odd", Anything))
    target = in_process_target(TestClient(create_app(pump)))
    assert target.status("/agents/odd/schema") == 404
    capability = target.get("/capabilities/odd")
    assert (capability["schemaXsd"], capability["exampleXml"]) == (None, None)
    payload = {"what": [1, {"ever": None}], "x": 1.5}
    answer = target.post("/inject", {"to": "odd", "payload": payload})
    assert answer.status_code == 200
    assert target.get("/messages")["messages"][0]["payload"] == payload


def test_a_listener_that_is_new_after_a_reload() -> None:
    pump = hello_pump()
    target = in_process_target(TestClient(create_app(pump)))
    pump.listeners["odd"] = LookingListener("odd", Anything)
    del pump.listeners["shouter"]
    pump.listeners["greeter"] = LookingListener("greeter", Anything, description="Changed")
    assert target.post("/organism/reload").json() == {
        "success": True,
        "added": ["odd"],
        "removed": ["shouter"],
        "updated": ["greeter"],
        "error": None,
    }
    assert target.status("/agents/shouter") == 404


class OfferingPump(LookingPump):
    """Offers all there is to offer."""

    def __init__(self) -> None:
        super().__init__(*hello_pump().listeners.values())
        self.calls: list[tuple[Any, ...]] = []

    async def inject(self, *, to: str, payload: dict[str, Any], thread_id: str, message_id: str) -> None:
        self.calls.append(("inject", to, payload))
        message = {"from_id": "api", "to_id": to, "payload_type": "x", "payload": payload, "thread_id": thread_id}
        self.tell({"event": "message", "id": message_id, **message})
        self.tell({"event": "message", **message, "from_id": "greeter", "to_id": "api", "payload": {"text": "hi"}})

    def pause(self, name: str) -> None:
        self.calls.append(("pause", name))

    async def resume(self, name: str) -> None:
        self.calls.append(("resume", name))

    def kill(self, thread_id: str) -> None:
        self.calls.append(("kill", thread_id))

    async def reload(self) -> dict[str, Any]:
        return {"success": False, "error": "line 3: no"}

    def stop(self) -> None:
        self.calls.append(("stop",))


def test_what_a_pump_offers_is_used() -> None:
    pump = OfferingPump()
    target = in_process_target(TestClient(create_app(pump)))
    thread, _ = target.inject()
    target.post("/agents/greeter/pause")
    target.post("/agents/greeter/resume")
    target.post(f"/threads/{thread}/kill")
    target.post("/organism/stop")
    assert pump.calls == [
        ("inject", "greeter", {"name": "Dan"}),
        ("pause", "greeter"),
        ("resume", "greeter"),
        ("kill", thread),
        ("stop",),
    ]
    assert target.post("/organism/reload").json()["error"] == "line 3: no"
    assert target.get(f"/threads/{thread}/messages")["total"] == 2


def test_prefer_wait_answers_with_what_comes_back() -> None:
    target = in_process_target(TestClient(create_app(OfferingPump())))
    answer = target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, Prefer="wait=10")
    assert answer.headers["preference-applied"] == "wait=10"
    assert answer.json()["reply"]["payload"] == {"text": "hi"}
    assert answer.json()["reply"]["from"] == "greeter"


def test_prefer_wait_answers_with_the_ids_when_time_is_up() -> None:
    target = in_process_target(TestClient(create_app(hello_pump())))
    answer = target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, Prefer="wait=1")
    assert answer.json().keys() == {"threadId", "messageId"}
