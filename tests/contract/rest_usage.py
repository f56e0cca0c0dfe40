"""The rows of the contract's REST table on usage, budgets and dead letters."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.contract.target import API, Target, camel_case_only, new_thread, problem

SHARED = {"maxTokens", "heldTokens", "totalTokens", "remaining", "percentUsed", "unlimited", "isExhausted"}
SUMS = {"totalTokens", "promptTokens", "completionTokens", "requestCount", "totalCost", "avgLatencyMs"}


class UsageRows:
    def test_usage(self, target: Target) -> None:
        usage = target.get("/usage")["usage"]
        assert usage.keys() == {"totals", "byAgent", "byModel", "activeThreads"}
        assert usage["totals"].keys() == SUMS
        assert all(row.keys() == SUMS | {"agentId"} for row in usage["byAgent"])
        assert all(row.keys() == SUMS | {"model"} for row in usage["byModel"])
        assert all(isinstance(value, int | float) for value in usage["totals"].values())

    def test_budgets(self, target: Target) -> None:
        body = target.get("/usage/threads")
        assert body["defaultMaxTokens"] == 100_000
        assert body["count"] == len(body["threads"])
        shares = [row["percentUsed"] for row in body["threads"]]
        assert shares == sorted(shares, reverse=True)

    def test_a_thread_without_budget(self, target: Target) -> None:
        problem(target.http.request("GET", f"{API}/usage/threads/{new_thread()}"), 404)

    def test_what_threads_share(self, target: Target) -> None:
        body = target.get("/usage/budgets")
        assert body.keys() == {"organism", "tags"}
        assert body["organism"].keys() == SHARED
        assert all(row.keys() == SHARED | {"key", "value"} for row in body["tags"])

    def test_a_top_up_is_added_once_for_each_key(self, target: Target) -> None:
        thread, _ = target.inject()
        path, key = f"/usage/threads/{thread}/top-up", {"Idempotency-Key": str(uuid4())}
        answers = [target.post(path, {"tokens": 50}, **key) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert {"threadId": thread, "maxTokens": 100_050}.items() <= answers[1].json().items()
        assert target.get(f"/usage/threads/{thread}")["maxTokens"] == 100_050
        problem(target.post(path, {"tokens": 51}, **key), 422)
        problem(target.post(path, {"tokens": 0}), 400)
        problem(target.post(f"/usage/threads/{new_thread()}/top-up", {"tokens": 1}), 404)
        target.post(f"/threads/{thread}/kill")
        problem(target.post(path, {"tokens": 1}), 409)

    def test_an_unknown_agent_has_used_nothing(self, target: Target) -> None:
        body = target.get("/usage/agents/nobody")
        assert {key: body[key] for key in SUMS} == dict.fromkeys(SUMS, 0)

    def test_a_model_may_have_a_slash(self, target: Target) -> None:
        body = target.get("/usage/models/some/model")
        assert body["model"] == "some/model"
        assert {key: body[key] for key in SUMS} == dict.fromkeys(SUMS, 0)

    def test_usage_over_time(self, target: Target) -> None:
        body = target.get("/usage/timeseries", groupBy="agent")
        assert body.keys() == {"step", "from", "to", "series"}
        assert body["step"] == "hour"
        length = datetime.fromisoformat(body["to"]) - datetime.fromisoformat(body["from"])
        assert length == timedelta(hours=24)
        for series in body["series"]:
            assert len(series["points"]) == 24
            assert all(point.keys() == SUMS | {"time"} for point in series["points"])

    @pytest.mark.parametrize(
        ("parameters", "code"),
        [
            ({"step": "minute"}, "invalid-step"),
            ({"groupBy": "thread"}, "invalid-groupby"),
            ({"groupBy": "tag", "agent": "greeter"}, "invalid-groupby"),
            ({"from": "yesterday"}, "invalid-time"),
            ({"from": "2026-01-02", "to": "2026-01-01"}, "invalid-range"),
            ({"to": "9999-12-31T23:59:59"}, "invalid-range"),
            ({"from": "2020-01-01", "to": "2026-01-01"}, "too-many-points"),
        ],
    )
    def test_times_that_there_cannot_be(self, target: Target, parameters: dict[str, str], code: str) -> None:
        answer = target.http.request("GET", f"{API}/usage/timeseries", params=parameters)
        assert problem(answer, 400)["code"] == code

    def test_reset(self, target: Target) -> None:
        answer = target.post("/usage/reset")
        assert (answer.status_code, answer.json()) == (200, {"success": True})

    def test_keys_are_camel_case(self, target: Target) -> None:
        target.inject()
        for path in ("/organism", "/organism/config", "/agents", "/threads", "/messages", "/capabilities", "/usage"):
            assert camel_case_only(target.get(path)), path


class LetterRows:
    def test_dead_letters(self, target: Target) -> None:
        page = target.get("/dead-letters", listener="nobody")
        assert page == {"deadLetters": [], "count": 0, "total": 0, "offset": 0, "limit": 50}

    def test_the_keys_of_dead_letters_are_camel_case(self, target: Target) -> None:
        assert camel_case_only(target.get("/dead-letters"))

    @pytest.mark.parametrize("id_", ["nothing", str(UUID(int=0))])
    def test_an_unknown_dead_letter(self, target: Target, id_: str) -> None:
        for method, path in (("GET", id_), ("DELETE", id_), ("POST", f"{id_}/redrive")):
            answer = target.http.request(method, f"{API}/dead-letters/{path}")
            assert problem(answer, 404)["code"] == "unknown-dead-letter"

    @pytest.mark.parametrize("wrong", [{"redriven": "perhaps"}, {"since": "then"}, {"limit": 0}])
    def test_choices_that_there_cannot_be(self, target: Target, wrong: dict[str, Any]) -> None:
        assert problem(target.http.request("GET", f"{API}/dead-letters", params=wrong), 422)["errors"]

    def test_a_redrive_takes_nothing_but_a_payload(self, target: Target) -> None:
        path = f"/dead-letters/{UUID(int=0)}/redrive"
        assert problem(target.post(path, {"name": "Dan"}), 422)["errors"][0]["path"] == "name"
        assert problem(target.post(path, {"payload": 5}), 422)["errors"][0]["path"] == "payload"
