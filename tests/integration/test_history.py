"""The history shows what was accepted from the moment that the caller has the answer; here no router ever takes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from tests.integration.gateway_support import API, Gateway, copied_example, running_gateway

TAKE = (
    "with taken as (update inbox set taken_at = now() where id = :id returning *)"
    " insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state)"
    " select id, thread_id, :slot, 'api', to_id, 'request', 'greeter.greeting',"
    " '<greeter.greeting><name>Dan</name></greeter.greeting>', true, 'waiting' from taken"
)


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


async def take(gateway: Gateway, message: str, slot: int) -> None:
    """What a router does to the two tables."""
    async with gateway.database.begin() as connection:
        await connection.execute(text(TAKE), {"id": UUID(message), "slot": slot})
        await connection.execute(text("update threads set slots = greatest(slots, :slot)"), {"slot": slot})


async def ids(gateway: Gateway, path: str, **parameters: Any) -> list[str]:
    """The ids of a list, page by page of two."""
    found: list[str] = []
    while True:
        page = await gateway.get(path, limit=2, offset=len(found), **parameters)
        found += [row["id"] for row in page["messages"]]
        assert page["count"] == len(page["messages"])
        if not page["messages"]:
            assert page["total"] == len(found)
            return found


async def test_a_message_is_shown_at_once(gateway: Gateway) -> None:
    answer = (await gateway.inject()).json()
    thread = answer["threadId"]
    [shown] = (await gateway.get("/messages"))["messages"]
    assert (await gateway.get(f"/threads/{thread}/messages"))["messages"] == [shown]
    assert {key: shown[key] for key in ("id", "threadId", "from", "to", "payloadType", "payload", "slotIndex")} == {
        "id": answer["messageId"],
        "threadId": thread,
        "from": "api",
        "to": "greeter",
        "payloadType": "greeter.greeting",
        "payload": {"name": "Dan"},
        "slotIndex": 0,
    }
    assert (await gateway.get(f"/threads/{thread}"))["messageCount"] == 1
    assert (await gateway.get("/threads"))["threads"][0]["messageCount"] == 1
    assert (await gateway.get("/organism"))["totalMessages"] == 1


async def test_pages_go_on_from_what_is_taken_to_what_is_not(gateway: Gateway) -> None:
    thread = str(uuid4())
    sent = [(await gateway.inject(f"n{number}", thread=thread)).json()["messageId"] for number in range(5)]
    for taken in range(6):
        assert await ids(gateway, f"/threads/{thread}/messages") == sent
        assert await ids(gateway, "/messages") == sent[::-1]
        assert await ids(gateway, "/messages", agent="greeter") == sent[::-1]
        assert await ids(gateway, "/messages", agent="shouter") == []
        rows = (await gateway.get(f"/threads/{thread}/messages"))["messages"]
        assert [row["slotIndex"] for row in rows] == [0, 1, 2, 3, 4]
        assert (await gateway.get(f"/threads/{thread}"))["messageCount"] == 5
        if taken < 5:
            await take(gateway, sent[taken], taken + 1)


async def test_a_kill_leaves_in_the_history_what_was_accepted(gateway: Gateway) -> None:
    accepted = (await gateway.inject()).json()
    thread = accepted["threadId"]
    await gateway.http.post(f"{API}/threads/{thread}/kill")
    assert (await gateway.get(f"/threads/{thread}"))["messageCount"] == 1
    assert await ids(gateway, f"/threads/{thread}/messages") == [accepted["messageId"]]
