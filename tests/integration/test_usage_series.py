"""Usage over time, from the gateway: six calls made by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway_support import Gateway, copied_example, running_gateway
from tests.support import report_sample
from xml_pipeline.storage import usage_series
from xml_pipeline.storage.database import Database

HOURS = {"from": "2026-01-02T09:15:00Z", "to": "2026-01-02T12:30:00Z"}
DAYS = {"from": "2026-01-01", "to": "2026-01-04", "step": "day"}


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    database = Database.connect(database_url)
    async with database.begin() as connection:
        await report_sample.fill(connection)
    await database.close()
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


def tokens(answer: Any) -> dict[str | None, list[int]]:
    return {series["key"]: [point["totalTokens"] for point in series["points"]] for series in answer["series"]}


async def test_every_hour_has_a_point(gateway: Gateway) -> None:
    answer = await gateway.get("/usage/timeseries", **HOURS)
    assert (answer["step"], answer["from"], answer["to"]) == ("hour", "2026-01-02T09:00:00Z", "2026-01-02T13:00:00Z")
    [series] = answer["series"]
    assert series["key"] is None
    assert series["points"][0] == {
        "time": "2026-01-02T09:00:00Z",
        "requestCount": 2,
        "promptTokens": 2500,
        "completionTokens": 500,
        "totalTokens": 3000,
        "totalCost": 0.012,
        "avgLatencyMs": 700.0,
    }
    assert tokens(answer) == {None: [3000, 0, 0, 4000]}
    # The one call of that hour expired.
    assert series["points"][3]["avgLatencyMs"] == 0.0


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, {None: [5700, 7000, 1100]}),
        ({"groupBy": "agent"}, {"writer": [4500, 4600, 0], "planner": [1200, 2400, 1100]}),
        ({"groupBy": "provider", "agent": "writer"}, {"anthropic": [4500, 4000, 0], "local": [0, 600, 0]}),
        ({"groupBy": "model", "provider": "xai"}, {"grok-4.1": [1200, 2400, 1100]}),
        ({"groupBy": "tag"}, {"team=blue": [5700, 0, 0], "customer=acme": [0, 3000, 0], "team=red": [0, 3000, 0]}),
        (
            {"groupBy": "tag", "model": "grok-4.1"},
            {"customer=acme": [0, 2400, 0], "team=red": [0, 2400, 0], "team=blue": [1200, 0, 0]},
        ),
        ({"agent": "nobody"}, {}),
        ({"agent": "no\x00body"}, {}),
    ],
)
async def test_days_by_what_is_asked_for(
    gateway: Gateway, parameters: dict[str, str], expected: dict[str | None, list[int]]
) -> None:
    answer = await gateway.get("/usage/timeseries", **DAYS, **parameters)
    assert list(tokens(answer).items()) == list(expected.items())


async def test_days_and_hours_say_the_same(gateway: Gateway) -> None:
    by_hour = await gateway.get("/usage/timeseries", **{**DAYS, "step": "hour"}, groupBy="model")
    by_day = await gateway.get("/usage/timeseries", **DAYS, groupBy="model")
    assert {key: sum(points) for key, points in tokens(by_hour).items()} == {
        key: sum(points) for key, points in tokens(by_day).items()
    }


async def test_a_reset_does_not_end_the_series(gateway: Gateway) -> None:
    before = await gateway.get("/usage/timeseries", **DAYS)
    assert (await gateway.http.post("/api/v1/usage/reset")).status_code == 200
    assert await gateway.get("/usage/timeseries", **DAYS) == before


async def test_the_last_day_by_hour_unless_said(gateway: Gateway) -> None:
    before = datetime.now(UTC)
    answer = await gateway.get("/usage/timeseries")
    start, end = (datetime.fromisoformat(answer[name]) for name in ("from", "to"))
    assert end - start == timedelta(hours=24)
    assert before < end <= before + timedelta(hours=1, minutes=1)


async def test_the_least_used_are_one(gateway: Gateway) -> None:
    wanted = usage_series.Wanted(
        datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC), "day", "model", most=1
    )
    async with gateway.database.begin() as connection:
        found = await usage_series.series(connection, wanted)
    in_all = {
        key: sum(used.prompt_tokens + used.completion_tokens for used in series.values())
        for key, series in found.items()
    }
    assert in_all == {"claude-sonnet-4-5": 8500, usage_series.OTHERS: 5300}
