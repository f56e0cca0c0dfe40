"""The contract's WebSocket part."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.target import Socket, Target, ask, camel_case_only, new_thread, tell


def messages_of(socket: Socket, thread: str, count: int) -> list[dict[str, Any]]:
    """The next `count` message events of a thread."""
    found: list[dict[str, Any]] = []
    while len(found) < count:
        event = socket.receive()
        if event["event"] == "message" and event["message"]["threadId"] == thread:
            found.append(event["message"])
    return found


class WebSocketSuite:
    def test_connected_comes_first(self, target: Target) -> None:
        thread, _ = target.inject()
        with target.open_socket("/ws") as socket:
            event = socket.receive()
        assert event.keys() == {"event", "organism", "agents", "threads"}
        assert event["event"] == "connected"
        assert event["organism"]["name"] == target.organism
        assert {agent["name"] for agent in event["agents"]} == {"greeter", "shouter"}
        assert thread in [row["id"] for row in event["threads"]]
        assert camel_case_only(event)

    def test_a_message_is_pushed_as_rest_shows_it(self, target: Target) -> None:
        thread = new_thread()
        with target.socket(threads=[thread], events=["message"]) as socket:
            _, message = target.inject(thread=thread)
            event = socket.receive()
        assert event["event"] == "message"
        assert event["message"]["id"] == message
        assert event["message"]["payload"] == {"name": "Dan"}
        shown = target.until(lambda: target.get(f"/threads/{thread}/messages")["messages"], "the message in the thread")
        assert event["message"] == shown[0]

    def test_a_new_thread_is_told(self, target: Target) -> None:
        thread = new_thread()
        with target.socket(threads=[thread], events=["thread_created"]) as socket:
            target.inject(thread=thread)
            event = socket.receive()
        assert event.keys() == {"event", "thread"}
        assert event["thread"]["id"] == thread

    def test_a_killed_thread_is_told(self, target: Target) -> None:
        thread, _ = target.inject()
        with target.socket(threads=[thread], events=["thread_updated"]) as socket:
            target.post(f"/threads/{thread}/kill")
            event = socket.receive()
            while event["status"] != "killed":
                event = socket.receive()
        assert event.keys() == {"event", "threadId", "status", "messageCount"}
        assert event["threadId"] == thread

    def test_a_paused_agent_is_told(self, target: Target) -> None:
        with target.socket(agents=["shouter"], events=["agent_state"]) as socket:
            target.post("/agents/shouter/pause")
            event = socket.receive()
            while event["state"] != "paused":
                event = socket.receive()
            target.post("/agents/shouter/resume")
        assert event == {"event": "agent_state", "agent": "shouter", "state": "paused", "currentThread": None}

    @pytest.mark.parametrize(
        "filters",
        [
            {"agents": ["greeter"]},
            {"threads": ["a", "b"]},
            {"payload_types": ["x"]},
            {"events": ["message"]},
            {"agents": ["a"], "events": ["error"], "threads": ["t"], "payload_types": ["p"]},
        ],
    )
    def test_subscribe(self, target: Target, filters: dict[str, list[str]]) -> None:
        with target.socket() as socket:
            tell(socket, cmd="subscribe", **filters)
            event = socket.receive()
            while event["event"] != "subscribed":
                event = socket.receive()
        assert event == {"event": "subscribed", "filters": filters}

    def test_a_subscription_narrows(self, target: Target) -> None:
        wanted, unwanted = new_thread(), new_thread()
        with target.socket(threads=[wanted], events=["message"]) as socket:
            target.inject(thread=unwanted)
            target.inject(thread=wanted)
            assert socket.receive()["message"]["threadId"] == wanted

    def test_inject(self, target: Target) -> None:
        with target.socket(events=["error"]) as socket:
            event = ask(socket, cmd="inject", to="greeter", payload={"name": "Dan"})
        assert event.keys() == {"event", "thread_id", "message_id"}
        assert event["event"] == "injected"
        assert target.get(f"/threads/{event['thread_id']}")["id"] == event["thread_id"]

    def test_inject_with_tags(self, target: Target) -> None:
        with target.socket(events=["budget"]) as socket:
            command = {"cmd": "inject", "to": "greeter", "payload": {"name": "Dan"}}
            event = ask(socket, **command, tags={"team": "blue"})
            assert target.get(f"/threads/{event['thread_id']}")["tags"] == {"team": "blue"}
            again = ask(socket, **command, thread_id=event["thread_id"], tags={"team": "red"})
            assert again["event"] == "error"
            assert "tags" in again["error"]

    def test_inject_into_a_thread(self, target: Target) -> None:
        thread = new_thread()
        with target.socket(events=["error"]) as socket:
            event = ask(socket, cmd="inject", to="greeter", payload={"name": "Dan"}, thread_id=thread)
        assert event["thread_id"] == thread

    @pytest.mark.parametrize(
        "command",
        [
            {"cmd": "inject", "to": "nobody", "payload": {}},
            {"cmd": "inject", "to": "greeter"},
            {"cmd": "inject", "to": "greeter", "payload": {"name": "\x00"}},
            {"cmd": "dance"},
            {"cmd": 5},
            {},
            {"cmd": "subscribe", "agents": "greeter"},
        ],
    )
    def test_what_cannot_be_done_is_an_error_and_the_connection_stays(
        self, target: Target, command: dict[str, Any]
    ) -> None:
        with target.socket(threads=["none"]) as socket:
            event = ask(socket, **command)
            assert event.keys() == {"event", "error"}
            assert event["event"] == "error"
            assert ask(socket, cmd="subscribe", agents=["a"])["event"] == "subscribed"

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", "[" * 50_000, "x" * 300_000, '{"cmd": "' + "x" * 200_000 + '"}']
    )
    def test_what_is_no_command(self, target: Target, text: str) -> None:
        with target.socket(threads=["none"]) as socket:
            socket.send_text(text)
            assert socket.receive()["event"] == "error"
            assert ask(socket, cmd="subscribe", agents=["a"])["event"] == "subscribed"

    def test_bare_messages(self, target: Target) -> None:
        thread = new_thread()
        with target.socket("/ws/messages") as socket:
            given = {"threads": [thread]}
            assert ask(socket, cmd="subscribe", filter=given) == {"event": "subscribed", "filter": given}
            target.inject()
            _, message = target.inject(thread=thread)
            pushed = socket.receive()
        assert pushed["id"] == message
        assert (pushed["from"], pushed["to"], pushed["threadId"]) == ("api", "greeter", thread)

    def test_bare_messages_without_a_filter(self, target: Target) -> None:
        with target.socket("/ws/messages") as socket:
            tell(socket, cmd="dance")
            while socket.receive().get("event") != "error":
                """Messages of others come in between."""
            _, message = target.inject()
            pushed = socket.receive()
            while pushed["id"] != message:
                pushed = socket.receive()
