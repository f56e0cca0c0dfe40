"""Nothing is accepted where nothing is left to spend, top-ups are counted once, and a thread keeps its tags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from httpx import Response
from sqlalchemy import text
from websockets.asyncio.client import connect

from tests.integration.gateway_support import API, Gateway, copied_example, running_gateway
from xml_pipeline.organism.budgets import UNLIMITED, Budgets
from xml_pipeline.storage import threads
from xml_pipeline.storage.budget_rows import Level
from xml_pipeline.storage.budget_tree import add_thread_budgets
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.inbox import Accepted, Answer, Inject, Refusal, accept
from xml_pipeline.storage.spent_budgets import Exhausted

BLUE = {"team": "blue"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=8)
    yield database
    await database.close()


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


def _inject(*, thread: UUID | None = None, tags: Mapping[str, str] | None = None) -> Inject:
    id_ = uuid4()
    return Inject(id_, thread or uuid5(id_, "thread"), "greeter", b"hello", b"<message/>", tags)


async def _accept(database: Database, *injects: Inject) -> list[Answer]:
    async with database.begin() as connection:
        return await accept(connection, injects)


async def _spend(database: Database, thread: UUID, level: Level) -> None:
    """Give a thread its budgets, and leave nothing of those of one level."""
    async with database.begin() as connection:
        await add_thread_budgets(connection, [thread], 100, Budgets())
        spend = "update budgets set base_tokens = 100, prompt_tokens = 60, completion_tokens = 41 where level = :level"
        await connection.execute(text(spend), {"level": level})


async def _scalar(database: Database, query: str) -> Any:
    async with database.begin() as connection:
        return await connection.scalar(text(query))


async def _change(database: Database, statement: str) -> None:
    async with database.begin() as connection:
        await connection.execute(text(statement))


@pytest.mark.parametrize(
    ("level", "tag", "others"),
    [(Level.THREAD, None, ""), (Level.TAG, "team=blue", "kin"), (Level.ORGANISM, None, "kin stranger")],
)
async def test_nothing_enters_where_nothing_is_left(
    database: Database, level: Level, tag: str | None, others: str
) -> None:
    first = _inject(tags=BLUE)
    await _accept(database, first)
    await _spend(database, first.thread_id, level)
    comers = {"same": _inject(thread=first.thread_id), "kin": _inject(tags=BLUE), "stranger": _inject()}
    answers = dict(zip(comers, await _accept(database, *comers.values()), strict=True))
    assert answers["same"] == Exhausted(level, tag, 100, 101)
    for name in ("kin", "stranger"):
        refused = Exhausted(level, tag, 100, 101, new=True)
        assert answers[name] == refused if name in others.split() else isinstance(answers[name], Accepted)
    # What was accepted before is answered as it was; of what is refused there is no trace.
    assert await _accept(database, first) == [Accepted(first.id, first.thread_id, repeated=True)]
    refused_ids = {one.thread_id for name, one in comers.items() if name in others.split()}
    async with database.begin() as connection:
        assert not [id_ for id_ in refused_ids if await threads.get_thread(connection, id_)]
    assert await _scalar(database, "select sum(open) from threads") == await _scalar(
        database, "select count(*) from inbox"
    )
    await _change(database, "update budgets set topped_up = 2")
    assert isinstance((await _accept(database, comers["same"]))[0], Accepted)


async def test_a_thread_has_the_tags_that_it_began_with(database: Database) -> None:
    thread, other = uuid4(), uuid4()
    first, wrong = (_inject(thread=thread, tags={"team": team}) for team in ("blue", "red"))
    silent, same, empty = (_inject(thread=thread, tags=tags) for tags in (None, BLUE, {}))
    answers = await _accept(database, first, wrong, silent, same, empty, _inject(thread=other))
    assert [answer is Refusal.TAGS_DIFFER for answer in answers] == [False, True, False, False, True, False]
    assert await _accept(database, wrong) == [Refusal.TAGS_DIFFER]
    async with database.begin() as connection:
        records = [await threads.get_thread(connection, id_) for id_ in (thread, other)]
    assert [record.tags for record in records if record] == [BLUE, {}]


class TestInjects:
    async def test_an_exhausted_thread_is_told_what_is_left(self, gateway: Gateway) -> None:
        accepted = (await gateway.inject(**{"Idempotency-Key": "first"})).json()
        thread = accepted["threadId"]
        await _spend(gateway.database, UUID(thread), Level.THREAD)
        refused = await gateway.inject(thread=thread)
        assert refused.status_code == 402
        assert refused.headers["content-type"] == "application/problem+json"
        expected = {
            "code": "budget-exhausted",
            "status": 402,
            "scope": "thread",
            "name": thread,
            "maxTokens": 100,
            "totalTokens": 101,
            "remaining": 0,
            "threadId": thread,
        }
        assert expected.items() <= refused.json().items()
        assert (await gateway.inject(**{"Idempotency-Key": "first"})).json() == accepted
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket:
            await socket.recv()
            command = {"cmd": "inject", "to": "greeter", "payload": {"name": "Dan"}, "thread_id": thread}
            await socket.send(json.dumps(command))
            said = json.loads(await socket.recv())
            assert said["event"] == "error"
            assert "exhausted" in said["error"]

    async def test_tags_of_a_new_thread(self, gateway: Gateway) -> None:
        answer = await _tagged(gateway, {"team": "blue", "customer": "Ænglish & co."})
        thread = answer.json()["threadId"]
        assert (await gateway.get(f"/threads/{thread}"))["tags"] == {"team": "blue", "customer": "Ænglish & co."}
        await _spend(gateway.database, UUID(thread), Level.TAG)
        refused = await _tagged(gateway, BLUE)
        assert refused.status_code == 402
        assert {"scope": "tag", "name": "team=blue", "threadId": None}.items() <= refused.json().items()
        shared = await gateway.get("/usage/budgets")
        assert [(tag["key"], tag["value"], tag["isExhausted"]) for tag in shared["tags"]] == [
            ("customer", "Ænglish & co.", True),
            ("team", "blue", True),
        ]
        assert shared["organism"]["unlimited"]

    async def test_tags_are_part_of_the_request_where_they_are_given(self, gateway: Gateway) -> None:
        key = {"Idempotency-Key": "tagged"}
        first = await _tagged(gateway, BLUE, key)
        assert (await _tagged(gateway, BLUE, key)).json() == first.json()
        assert (await _tagged(gateway, {"team": "red"}, key)).status_code == 422
        assert (await _tagged(gateway, None, key)).status_code == 422
        thread = first.json()["threadId"]
        other = await _tagged(gateway, {"team": "red"}, thread=thread)
        assert (other.status_code, other.json()["code"]) == (409, "tags-differ")
        assert (await gateway.inject(thread=thread)).status_code == 200

    @pytest.mark.parametrize(
        "tags",
        [
            {"Team": "blue"},
            {"": "blue"},
            {"team\n": "blue"},
            {"team": ""},
            {"team": "a\x00b"},
            {"team": "a\nb"},
            {"team": "x" * 201},
            {"team": 1},
            {f"t{number}": "x" for number in range(9)},
            ["team"],
        ],
    )
    async def test_what_is_no_tag(self, gateway: Gateway, tags: Any) -> None:
        assert (await _tagged(gateway, tags)).status_code == 422


async def _tagged(
    gateway: Gateway, tags: Any, headers: Mapping[str, str] | None = None, *, thread: str | None = None
) -> Response:
    body = {"to": "greeter", "payload": {"name": "Dan"}, "tags": tags, "threadId": thread}
    return await gateway.http.post(f"{API}/inject", json=body, headers=headers)


class TestTopUps:
    async def test_it_is_added_once_for_each_key(self, gateway: Gateway) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        await _spend(gateway.database, UUID(thread), Level.THREAD)
        await _change(gateway.database, "update budgets set fired = 95 where level = 2")
        answers = await asyncio.gather(*(_top_up(gateway, thread, 25, key="one") for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        assert answers[0].json() == {
            "threadId": thread,
            "maxTokens": 125,
            "promptTokens": 60,
            "completionTokens": 41,
            "totalTokens": 101,
            "remaining": 24,
            "percentUsed": 80.8,
            "isExhausted": False,
            "topUps": 25,
            "heldTokens": 0,
            "unlimited": False,
            "parkedMessages": 0,
        }
        assert all(answer.json() == answers[0].json() for answer in answers)
        # 75 percent is still reached: 90 and 95 are told of again when they are.
        assert await _scalar(gateway.database, "select fired from budgets where level = 2") == 75
        other = await _top_up(gateway, thread, 26, key="one")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
        assert (await _top_up(gateway, thread, 100)).json()["topUps"] == 125
        assert await _scalar(gateway.database, "select fired from budgets where level = 2") == 0
        assert await _scalar(gateway.database, "select array_agg(tokens order by tokens) from top_ups") == [25, 100]
        assert await _scalar(gateway.database, "select count(*) from audit_log where action = 'top-up'") == 2
        assert (await gateway.inject(thread=thread)).status_code == 200

    async def test_one_key_is_for_one_thread(self, gateway: Gateway) -> None:
        both = [(await gateway.inject()).json()["threadId"] for _ in range(2)]
        answers = await asyncio.gather(*(_top_up(gateway, thread, 25, key="one") for thread in both))
        assert sorted(answer.status_code for answer in answers) == [200, 422]
        assert await _scalar(gateway.database, "select sum(topped_up) from budgets") == 25

    async def test_a_thread_that_has_spent_nothing_yet_gets_its_budget(self, gateway: Gateway) -> None:
        thread = (await _tagged(gateway, BLUE)).json()["threadId"]
        answer = (await _top_up(gateway, thread, 5)).json()
        assert (answer["maxTokens"], answer["topUps"]) == (100_005, 5)
        assert await _scalar(gateway.database, "select array_agg(level order by level) from budgets") == [0, 1, 2]

    async def test_more_than_all_is_unlimited(self, gateway: Gateway) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        for _ in range(2):
            answer = (await _top_up(gateway, thread, 2**53)).json()
            assert (answer["maxTokens"], answer["unlimited"]) == (UNLIMITED, True)
        added = await _scalar(gateway.database, "select sum(tokens) from top_ups")
        assert added == await _scalar(gateway.database, "select topped_up from budgets where level = 2")

    async def test_only_threads_that_live_get_more(self, gateway: Gateway) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        assert (await _top_up(gateway, str(uuid4()), 5)).status_code == 404
        assert (await _top_up(gateway, "nonsense", 5)).status_code == 404
        await _top_up(gateway, thread, 5, key="before")
        await gateway.http.post(f"{API}/threads/{thread}/kill")
        assert (await _top_up(gateway, thread, 5)).status_code == 409
        assert (await _top_up(gateway, thread, 5, key="before")).status_code == 200

    @pytest.mark.parametrize(
        "body", ["", "{", "[]", "{}", '{"tokens": 0}', '{"tokens": -1}', '{"tokens": 1.5}', '{"tokens": "5"}',
                 '{"tokens": true}', '{"tokens": 9007199254740993}', '{"tokens": 5, "more": 1}']
    )  # fmt: skip
    async def test_what_is_no_top_up(self, gateway: Gateway, body: str) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        answer = await gateway.http.post(f"{API}/usage/threads/{thread}/top-up", content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-top-up")


async def _top_up(gateway: Gateway, thread: str, tokens: int, *, key: str | None = None) -> Response:
    headers = {"Idempotency-Key": key} if key else {}
    path = f"{API}/usage/threads/{thread}/top-up"
    return await gateway.http.post(path, json={"tokens": tokens}, headers=headers)
