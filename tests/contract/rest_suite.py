"""Every row of the contract's REST table, whatever is behind it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.contract.rest_usage import LetterRows, UsageRows
from tests.contract.target import API, Target, new_thread, problem

THREAD = {"id", "status", "participants", "messageCount", "createdAt", "lastActivity", "error", "tags"}
AGENT = {
    "name",
    "description",
    "isAgent",
    "peers",
    "payloadClass",
    "state",
    "currentThread",
    "queueDepth",
    "lastActivity",
    "messageCount",
}
MESSAGE = {"id", "threadId", "from", "to", "payloadType", "payload", "timestamp", "slotIndex"}


class OrganismRows:
    def test_health(self, target: Target) -> None:
        answer = target.http.request("GET", "/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "healthy"
        assert answer.json()["organism"] == target.organism

    def test_organism(self, target: Target) -> None:
        organism = target.get("/organism")
        assert organism["name"] == target.organism
        assert organism["status"] in {"starting", "running"}
        assert organism["uptimeSeconds"] >= 0
        assert organism["agentCount"] == 2
        assert organism["identityConfigured"] is False
        assert isinstance(organism["activeThreads"], int)
        assert isinstance(organism["totalMessages"], int)

    def test_config(self, target: Target) -> None:
        config = target.get("/organism/config")
        assert config["name"] == target.organism
        assert config["port"] == 8080
        assert set(config["listeners"]) == {"greeter", "shouter"}
        assert {"threadScheduling", "maxConcurrentPipelines", "maxConcurrentHandlers"} <= config.keys()

    def test_reload_of_what_has_not_changed(self, target: Target) -> None:
        answer = target.post("/organism/reload")
        assert answer.status_code == 200
        assert answer.json() == {"success": True, "added": [], "removed": [], "updated": [], "error": None}


class AgentRows:
    def test_agents(self, target: Target) -> None:
        body = target.get("/agents")
        assert body["count"] == 2
        assert {agent["name"]: agent["isAgent"] for agent in body["agents"]} == {"greeter": True, "shouter": False}

    def test_agent(self, target: Target) -> None:
        agent = target.get("/agents/greeter")
        assert agent.keys() >= AGENT
        assert agent["peers"] == ["shouter"]
        assert agent["payloadClass"].endswith(".Greeting")
        assert "." in agent["payloadClass"]
        assert agent["state"] in {"idle", "processing", "waiting"}

    def test_agent_config(self, target: Target) -> None:
        config = target.get("/agents/greeter/config")
        assert config.keys() == {"name", "description", "isAgent", "peers", "payloadClass"}

    def test_agent_schema(self, target: Target) -> None:
        body = target.get("/agents/greeter/schema")
        assert body["contentType"] == "application/xml"
        assert "greeter.greeting" in body["schema"]

    @pytest.mark.parametrize("path", ["", "/config", "/schema"])
    def test_an_unknown_agent(self, target: Target, path: str) -> None:
        assert problem(target.http.request("GET", f"{API}/agents/nobody{path}"), 404)["code"] == "unknown-agent"

    def test_pause_and_resume(self, target: Target) -> None:
        paused = target.post("/agents/shouter/pause")
        assert (paused.status_code, paused.json()) == (200, {"success": True, "state": "paused"})
        assert target.get("/agents/shouter")["state"] == "paused"
        resumed = target.post("/agents/shouter/resume")
        assert (resumed.status_code, resumed.json()) == (200, {"success": True, "state": "idle"})
        assert target.get("/agents/shouter")["state"] != "paused"

    @pytest.mark.parametrize("what", ["pause", "resume"])
    def test_an_unknown_agent_is_not_steered(self, target: Target, what: str) -> None:
        problem(target.post(f"/agents/nobody/{what}"), 404)

    def test_capabilities(self, target: Target) -> None:
        body = target.get("/capabilities")
        assert body["count"] == 2
        assert [row["name"] for row in body["capabilities"]] == ["greeter", "shouter"]
        assert body["capabilities"][0].keys() == {"name", "description", "isAgent", "peers", "rootTag"}
        assert body["capabilities"][0]["rootTag"] == "greeter.greeting"

    def test_capability(self, target: Target) -> None:
        body = target.get("/capabilities/greeter")
        assert body["payloadClass"].endswith(".Greeting")
        assert "greeter.greeting" in body["schemaXsd"]
        assert "<greeter.greeting" in body["exampleXml"]

    def test_an_unknown_capability(self, target: Target) -> None:
        problem(target.http.request("GET", f"{API}/capabilities/nobody"), 404)


class InjectRows:
    def test_inject(self, target: Target) -> None:
        thread, message = target.inject()
        assert str(UUID(thread)) == thread
        found = target.until(
            lambda: [row for row in target.get("/messages", limit=100)["messages"] if row["id"] == message],
            "the message in /messages",
        )
        assert found[0].keys() == MESSAGE
        assert (found[0]["from"], found[0]["to"], found[0]["threadId"]) == ("api", "greeter", thread)
        assert found[0]["payload"] == {"name": "Dan"}

    def test_an_unknown_target(self, target: Target) -> None:
        assert "nobody" in problem(target.post("/inject", {"to": "nobody", "payload": {}}), 400)["detail"]

    def test_a_thread_not_seen_before_starts_with_that_id(self, target: Target) -> None:
        thread = new_thread()
        assert target.inject(thread=thread)[0] == thread
        assert target.get(f"/threads/{thread}")["id"] == thread

    def test_after_the_answer_the_thread_can_be_read_and_killed_at_once(self, target: Target) -> None:
        thread, _ = target.inject()
        assert target.get(f"/threads/{thread}")["status"] in {"active", "completed"}
        killed = target.post(f"/threads/{thread}/kill")
        assert (killed.status_code, killed.json()) == (200, {"success": True, "threadId": thread})

    def test_a_killed_thread_takes_nothing_more(self, target: Target) -> None:
        thread, _ = target.inject()
        target.post(f"/threads/{thread}/kill")
        problem(target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}, "threadId": thread}), 409)
        assert target.get(f"/threads/{thread}")["status"] == "killed"

    def test_the_same_key_again_at_any_gateway_is_the_same_answer(self, target: Target) -> None:
        key, body = {"Idempotency-Key": str(uuid4())}, {"to": "greeter", "payload": {"name": "Dan"}}
        answers = [
            client.request("POST", f"{API}/inject", json=body, headers=key)
            for client in (target.http, target.other, target.http)
        ]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        thread = answers[0].json()["threadId"]
        own = [row for row in target.get(f"/threads/{thread}/messages", limit=100)["messages"] if row["from"] == "api"]
        assert len(own) <= 1

    def test_the_same_key_with_another_body_is_refused(self, target: Target) -> None:
        key = {"Idempotency-Key": str(uuid4())}
        target.post("/inject", {"to": "greeter", "payload": {"name": "Dan"}}, **key)
        problem(target.post("/inject", {"to": "greeter", "payload": {"name": "Eve"}}, **key), 422)

    def test_a_payload_that_does_not_fit_has_an_entry_for_each_fault(self, target: Target) -> None:
        answer = target.post("/inject", {"to": "greeter", "payload": {"nome": 1}})
        faults = problem(answer, 422)["errors"]
        assert {fault["path"] for fault in faults} == {"name", "nome"}
        assert all(fault["message"] for fault in faults)

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"to": "greeter"},
            {"to": 5, "payload": {}},
            {"to": "greeter", "payload": []},
            {"to": "greeter", "payload": {"name": "a\x00b"}},
            {"to": "greeter", "payload": {"name": "\ud800"}},
            {"to": "greeter", "payload": {"name": "Dan"}, "threadId": 5},
            [],
            "text",
        ],
    )
    def test_wrong_types_and_text_that_xml_cannot_carry(self, target: Target, body: Any) -> None:
        assert problem(target.post("/inject", body), 422)["errors"]

    @pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 100_000])
    def test_what_is_not_json(self, target: Target, body: bytes) -> None:
        headers = {"content-type": "application/json"}
        problem(target.http.request("POST", f"{API}/inject", content=body, headers=headers), 400)

    def test_a_body_that_is_too_large(self, target: Target) -> None:
        problem(target.post("/inject", {"to": "greeter", "payload": {"name": "x" * 300_000}}), 413)

    def test_a_body_that_is_too_large_and_does_not_tell(self, target: Target) -> None:
        chunks = (b" " * 1000 for _ in range(400))
        headers = {"content-type": "application/json"}
        problem(target.http.request("POST", f"{API}/inject", content=chunks, headers=headers), 413)

    def test_a_thread_keeps_its_tags(self, target: Target) -> None:
        body = {"to": "greeter", "payload": {"name": "Dan"}, "tags": {"team": "blue"}}
        thread = target.post("/inject", body).json()["threadId"]
        assert target.get(f"/threads/{thread}")["tags"] == {"team": "blue"}
        assert target.inject(thread=thread)[0] == thread
        other = target.post("/inject", body | {"threadId": thread, "tags": {"team": "red"}})
        assert problem(other, 409)["code"] == "tags-differ"
        problem(target.post("/inject", body | {"tags": {"Team": "blue"}}), 422)


class ThreadRows:
    def test_threads_are_listed_with_the_newest_first(self, target: Target) -> None:
        made = [target.inject()[0] for _ in range(3)]
        body = target.get("/threads", limit=100)
        assert body["count"] == len(body["threads"])
        assert body["total"] >= 3
        listed = [thread["id"] for thread in body["threads"] if thread["id"] in made]
        assert listed == made[::-1]

    def test_a_thread(self, target: Target) -> None:
        thread, _ = target.inject()
        body = target.get(f"/threads/{thread}")
        assert body.keys() == THREAD
        assert {"api", "greeter"} <= set(body["participants"])
        assert datetime.fromisoformat(body["createdAt"]) <= datetime.fromisoformat(body["lastActivity"])

    def test_an_unknown_thread(self, target: Target) -> None:
        for path in ("", "/messages"):
            problem(target.http.request("GET", f"{API}/threads/{new_thread()}{path}"), 404)
        problem(target.post(f"/threads/{new_thread()}/kill"), 404)

    def test_by_status(self, target: Target) -> None:
        thread, _ = target.inject()
        target.post(f"/threads/{thread}/kill")
        killed = target.get("/threads", status="killed", limit=100)["threads"]
        assert thread in [row["id"] for row in killed]
        assert {row["status"] for row in killed} == {"killed"}

    def test_an_unknown_status_is_refused_and_the_valid_ones_named(self, target: Target) -> None:
        answer = target.http.request("GET", f"{API}/threads", params={"status": "done"})
        detail = problem(answer, 400)["detail"]
        assert all(status in detail for status in ("active", "completed", "error", "killed"))

    def test_by_agent(self, target: Target) -> None:
        thread, _ = target.inject()
        assert thread in [row["id"] for row in target.get("/threads", agent="greeter", limit=100)["threads"]]
        assert target.get("/threads", agent="nobody")["total"] == 0

    def test_by_last_activity(self, target: Target) -> None:
        thread, _ = target.inject()
        before = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        after = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert thread in [row["id"] for row in target.get("/threads", since=before, limit=100)["threads"]]
        assert target.get("/threads", since=after)["total"] == 0

    def test_messages_of_a_thread(self, target: Target) -> None:
        thread, message = target.inject()
        target.until(lambda: target.get(f"/threads/{thread}/messages")["total"], "the thread's messages")
        body = target.get(f"/threads/{thread}/messages", limit=100)
        assert body["messages"][0]["id"] == message
        assert {row["threadId"] for row in body["messages"]} == {thread}
        assert body["count"] == len(body["messages"]) == body["total"]

    def test_messages_of_an_agent(self, target: Target) -> None:
        _, message = target.inject()
        target.until(
            lambda: message in [row["id"] for row in target.get("/messages", agent="greeter", limit=100)["messages"]],
            "the message among the agent's",
        )
        rows = target.get("/messages", agent="greeter", limit=100)["messages"]
        assert all("greeter" in (row["from"], row["to"]) for row in rows)

    @pytest.mark.parametrize("path", ["/threads", "/messages"])
    def test_pages(self, target: Target, path: str) -> None:
        for _ in range(3):
            target.inject()
        target.until(lambda: target.get(path)["total"] >= 3, "three of them")
        key = path.strip("/")
        default = target.get(path)
        assert (default["limit"], default["offset"]) == (50, 0)
        page = target.get(path, limit=1, offset=1)
        assert (page["count"], page["limit"], page["offset"], len(page[key])) == (1, 1, 1, 1)
        beyond = target.get(path, offset=10_000_000)
        assert (beyond["count"], beyond[key]) == (0, [])

    @pytest.mark.parametrize("page", [{"limit": 0}, {"limit": 101}, {"offset": -1}, {"limit": "x"}])
    def test_pages_that_there_cannot_be(self, target: Target, page: dict[str, Any]) -> None:
        assert problem(target.http.request("GET", f"{API}/threads", params=page), 422)["errors"]


class RestSuite(OrganismRows, AgentRows, InjectRows, ThreadRows, UsageRows, LetterRows):
    """All REST rows but the one that ends the organism."""
