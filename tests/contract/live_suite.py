"""What of the contract shows only where messages move."""

from __future__ import annotations

from typing import Any

from tests.contract.rest_usage import SUMS
from tests.contract.target import Target, new_thread, problem, tell
from tests.contract.websocket_suite import messages_of


class LiveSuite:
    """A greeting goes greeter -> shouter -> greeter -> api: four messages."""

    def test_it_runs(self, target: Target) -> None:
        assert target.get("/organism")["status"] == "running"

    def test_a_greeting_comes_back(self, target: Target) -> None:
        thread, _ = target.inject()
        self._until_status(target, thread, "completed")
        messages = target.get(f"/threads/{thread}/messages")["messages"]
        assert [(row["from"], row["to"]) for row in messages] == [
            ("api", "greeter"),
            ("greeter", "shouter"),
            ("shouter", "greeter"),
            ("greeter", "api"),
        ]
        assert [row["slotIndex"] for row in messages] == [0, 1, 2, 3]
        assert "DAN" in messages[-1]["payload"]["text"]
        shown = target.get(f"/threads/{thread}")
        assert shown["messageCount"] == 4
        assert shown["participants"] == ["api", "greeter", "shouter"]
        assert shown["error"] is None

    def test_a_completed_thread_becomes_active_again(self, target: Target) -> None:
        thread, _ = target.inject()
        self._until_status(target, thread, "completed")
        target.post("/agents/shouter/pause")
        try:
            target.inject(thread=thread)
            assert target.get(f"/threads/{thread}")["status"] == "active"
        finally:
            target.post("/agents/shouter/resume")
        self._until_status(target, thread, "completed")
        assert target.get(f"/threads/{thread}")["messageCount"] == 8

    def test_prefer_wait(self, target: Target) -> None:
        answer = target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, Prefer="wait=30")
        body = answer.json()
        assert answer.headers["preference-applied"] == "wait=30"
        assert "DAN" in body["reply"]["payload"]["text"]
        assert body["reply"]["threadId"] == body["threadId"]
        again = target.get(f"/threads/{body['threadId']}/messages")["messages"][-1]
        assert body["reply"] == again

    def test_prefer_wait_with_a_key_twice(self, target: Target) -> None:
        headers = {"Prefer": "wait=30", "Idempotency-Key": new_thread()}
        bodies = [
            target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, **headers).json() for _ in range(2)
        ]
        assert bodies[0] == bodies[1]

    def test_what_is_not_there_in_time_is_left_out(self, target: Target) -> None:
        target.post("/agents/shouter/pause")
        try:
            answer = target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, Prefer="wait=1")
        finally:
            target.post("/agents/shouter/resume")
        assert answer.json().keys() == {"threadId", "messageId"}

    def test_a_paused_agent_keeps_its_queue(self, target: Target) -> None:
        target.post("/agents/shouter/pause")
        try:
            thread, _ = target.inject()
            target.until(lambda: target.get("/agents/shouter")["queueDepth"] == 1, "a message in the queue")
            assert target.get("/agents/shouter")["state"] == "paused"
            assert target.get(f"/threads/{thread}")["status"] == "active"
        finally:
            target.post("/agents/shouter/resume")
        self._until_status(target, thread, "completed")
        target.until(lambda: target.get("/agents/shouter")["queueDepth"] == 0, "an empty queue")

    def test_nothing_more_of_a_killed_thread_is_delivered(self, target: Target) -> None:
        target.post("/agents/shouter/pause")
        try:
            thread, _ = target.inject()
            target.until(lambda: target.get(f"/threads/{thread}")["messageCount"] == 2, "the shouter's message")
            target.post(f"/threads/{thread}/kill")
        finally:
            target.post("/agents/shouter/resume")
        other, _ = target.inject()
        self._until_status(target, other, "completed")
        shown = target.get(f"/threads/{thread}")
        assert (shown["status"], shown["messageCount"]) == ("killed", 2)

    def test_agents_count_what_they_send(self, target: Target) -> None:
        before = target.get("/agents/shouter")["messageCount"]
        thread, _ = target.inject()
        self._until_status(target, thread, "completed")
        target.until(lambda: target.get("/agents/shouter")["messageCount"] > before, "one more")
        assert target.get("/agents/shouter")["lastActivity"] is not None

    def test_exactly_one_event_for_each_message(self, target: Target) -> None:
        thread = new_thread()
        with target.socket(threads=[thread], events=["message"]) as socket:
            target.inject(thread=thread)
            self._until_status(target, thread, "completed")
            target.inject(thread=thread)
            pushed = messages_of(socket, thread, 8)
        self._until_status(target, thread, "completed")
        assert pushed == target.get(f"/threads/{thread}/messages")["messages"]

    def test_every_kind_of_event(self, target: Target) -> None:
        thread = new_thread()
        with target.socket() as socket:
            target.inject(thread=thread)
            seen: dict[str, dict[str, Any]] = {}
            wanted = {"message", "thread_created", "thread_updated", "usage", "agent_state"}
            while not wanted <= seen.keys() or seen["thread_updated"]["status"] != "completed":
                event = socket.receive()
                seen[event["event"]] = event
        assert seen["thread_updated"].keys() == {"event", "threadId", "status", "messageCount"}
        assert seen["agent_state"].keys() == {"event", "agent", "state", "currentThread"}
        assert seen["thread_created"]["thread"]["id"] == thread

    def test_the_inject_command_moves_messages(self, target: Target) -> None:
        with target.socket(events=["error"]) as socket:
            tell(socket, cmd="inject", to="greeter", payload={"name": "Dan"})
            thread = socket.receive()["thread_id"]
        self._until_status(target, thread, "completed")

    def test_usage_is_booked(self, target: Target) -> None:
        target.post("/usage/reset")
        thread, _ = target.inject()
        self._until_status(target, thread, "completed")
        usage = target.until(
            lambda: target.get("/usage")["usage"] if target.status(f"/usage/threads/{thread}") == 200 else None, "usage"
        )
        assert usage is not None
        assert usage["totals"]["requestCount"] == 1
        assert usage["totals"]["totalTokens"] > 0
        assert [row["agentId"] for row in usage["byAgent"]] == ["greeter"]
        assert {key: usage["byAgent"][0][key] for key in SUMS} == usage["totals"]
        assert target.get("/usage/agents/greeter")["totalTokens"] == usage["totals"]["totalTokens"]
        budget = target.get(f"/usage/threads/{thread}")
        assert budget["totalTokens"] == usage["totals"]["totalTokens"]
        assert budget["remaining"] == 100_000 - budget["totalTokens"]
        assert thread in [row["threadId"] for row in target.get("/usage/threads")["threads"]]
        target.post("/usage/reset")
        assert target.get("/usage")["usage"]["totals"]["totalTokens"] == 0
        assert target.get(f"/usage/threads/{thread}")["totalTokens"] == budget["totalTokens"]

    def test_a_thread_id_that_is_no_uuid(self, target: Target) -> None:
        body = {"to": "greeter", "payload": {"name": "Dan"}, "threadId": "mine"}
        assert problem(target.post("/inject", body), 422)["errors"][0]["path"] == "threadId"

    def _until_status(self, target: Target, thread: str, status: str) -> None:
        target.until(lambda: target.get(f"/threads/{thread}")["status"] == status, f"thread {thread} {status}")
