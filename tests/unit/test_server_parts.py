"""The parts of the server that decide something by themselves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from unittest.mock import AsyncMock, MagicMock

import pytest

from xml_pipeline.errors import DatabaseUnavailable, InvalidPayload
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.server import feed, parameters
from xml_pipeline.server.contracts import check_json
from xml_pipeline.server.live.paced import Paced
from xml_pipeline.server.live.presence import ALIVE_FOR, Presence
from xml_pipeline.server.models import AgentState, MessageInfo, budget_of
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.pump import offered


def heartbeat(service: str, instance: str = "1", *listeners: str) -> Heartbeat:
    return Heartbeat.model_validate({"service": service, "instance": instance, "listeners": listeners})


class TestPresence:
    def test_all_have_to_be_there(self) -> None:
        presence = Presence()
        for service in ("router", "usage"):
            presence.note(heartbeat(service), 0.0)
        assert not presence.is_complete(["a", "b"], 0.0)
        presence.note(heartbeat("agent-worker", "1", "a"), 0.0)
        assert not presence.is_complete(["a", "b"], 0.0)
        presence.note(heartbeat("agent-worker", "2", "b"), 0.0)
        assert presence.is_complete(["a", "b"], 0.0)

    def test_a_heartbeat_is_good_for_some_seconds(self) -> None:
        presence = Presence()
        for service in ("router", "usage", "agent-worker"):
            presence.note(heartbeat(service), 0.0)
        assert presence.is_complete([], ALIVE_FOR)
        presence.note(heartbeat("router"), ALIVE_FOR)
        assert not presence.is_complete([], ALIVE_FOR + 0.1)


class TestFilters:
    message = feed.message_event(MessageInfo(id="1", thread_id="t", from_id="a", to_id="b", payload_type="p"))
    agent = feed.agent_event("a", AgentState.IDLE, None)

    @pytest.mark.parametrize(
        ("filters", "taken"),
        [
            (feed.Filters(), True),
            (feed.Filters(agents=frozenset("b")), True),
            (feed.Filters(agents=frozenset("c")), False),
            (feed.Filters(threads=frozenset("t")), True),
            (feed.Filters(threads=frozenset("u")), False),
            (feed.Filters(payload_types=frozenset("p")), True),
            (feed.Filters(payload_types=frozenset("q")), False),
            (feed.Filters(events=frozenset({"message"})), True),
            (feed.Filters(events=frozenset({"error"})), False),
            (feed.Filters(agents=frozenset("a"), threads=frozenset("u")), False),
        ],
    )
    def test_a_message(self, filters: feed.Filters, taken: bool) -> None:
        assert filters.take(self.message) is taken

    def test_what_an_event_does_not_have_is_not_what_was_wanted(self) -> None:
        assert not feed.Filters(threads=frozenset("t")).take(self.agent)
        assert not feed.Filters(payload_types=frozenset("p")).take(self.agent)

    def test_it_is_serialised_once(self) -> None:
        assert self.message.text is self.message.text


class TestParameters:
    @pytest.mark.parametrize(
        ("prefer", "seconds"),
        [
            (None, 0),
            ([], 0),
            (["wait=5"], 5),
            (["respond-async, wait=10"], 10),
            (["respond-async", 'Wait = "7"'], 7),
            (["wait=600"], 60),
            (["wait=x"], 0),
            (["wait=-1"], 0),
            (["await=5"], 0),
        ],
    )
    async def test_prefer(self, prefer: list[str] | None, seconds: float) -> None:
        assert await parameters.wait_seconds(prefer) == seconds

    @pytest.mark.parametrize(
        "since",
        [
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05Z",
            "2026-01-02T04:04:05+01:00",
            "2026-01-02T04:04:05 01:00",
            "2026-01-02 03:04:05",
        ],
    )
    async def test_since(self, since: str) -> None:
        assert (await parameters.thread_query(since=since)).since == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    @pytest.mark.parametrize("since", ["", "yesterday", "2026-13-01", "0001-01-01T00:00:00+23:00"])
    async def test_since_that_is_no_time(self, since: str) -> None:
        with pytest.raises(Problem) as refused:
            await parameters.thread_query(since=since)
        assert refused.value.status_code == 422


class TestPayloads:
    def test_every_place_is_told(self) -> None:
        with pytest.raises(InvalidPayload) as refused:
            check_json({"a": "\x00", "b": [{"c": "\ud800"}], "d": float("nan"), "\x01": 1, "fine": ["x", None, 1.5]})
        assert [fault.path for fault in refused.value.faults] == ["a", "b[0].c", "d", ""]

    def test_depth_is_bounded(self) -> None:
        nested: dict[str, object] = {}
        for _ in range(100):
            nested = {"a": nested}
        with pytest.raises(InvalidPayload):
            check_json(nested)


class TestOffers:
    class Real:
        def stop(self) -> None: ...

        inject = None

    @dataclass(slots=True)
    class Slotted:
        stop: object = None

    def test_what_is_defined_is_offered(self) -> None:
        assert offered(self.Real(), "stop") is not None
        assert offered(self.Real(), "inject") is None
        assert offered(self.Real(), "kill") is None
        assert offered(self.Slotted(), "stop") is None
        assert offered(self.Slotted(stop=print), "stop") is print

    def test_what_a_stand_in_makes_up_is_not(self) -> None:
        pump = MagicMock()
        assert pump.kill is not None
        assert offered(pump, "kill") is None
        pump.stop = AsyncMock()
        assert offered(pump, "stop") is pump.stop


def test_budgets() -> None:
    budget = budget_of("t", 100_000, 3000, 1500)
    assert (budget.remaining, budget.percent_used, budget.is_exhausted) == (95_500, 4.5, False)
    spent = budget_of("t", 100, 100, 50)
    assert (spent.remaining, spent.percent_used, spent.is_exhausted) == (0, 150.0, True)
    assert budget_of("t", 0, 0, 0).is_exhausted


async def test_a_cheap_query_is_asked_each_time() -> None:
    asked = iter(range(3))

    async def cheap() -> int:
        return next(asked)

    paced = Paced(cheap)
    assert [await paced.get() for _ in range(3)] == [0, 1, 2]


async def test_a_slow_query_is_not_asked_again_at_once() -> None:
    asked = 0

    async def slow() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return asked

    paced = Paced(slow)
    assert await asyncio.gather(*(paced.get() for _ in range(5))) == [1] * 5


async def test_those_who_ask_while_it_fails_fail_with_it_and_the_next_asks_anew() -> None:
    asked = 0
    fails = asyncio.Event()

    async def failing() -> int:
        nonlocal asked
        asked += 1
        await fails.wait()
        if asked == 1:
            raise DatabaseUnavailable("gone")
        return asked

    paced = Paced(failing)
    together = [asyncio.create_task(paced.get()) for _ in range(5)]
    await asyncio.sleep(0)
    fails.set()
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 5
    assert asked == 1
    assert await paced.get() == 2
