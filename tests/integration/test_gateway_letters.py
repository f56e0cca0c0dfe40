"""Dead letters at a gateway with a real database; no router runs, so that what is accepted stays as it is."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import httpx
import pytest
from sqlalchemy import text

from tests.integration.gateway_support import API, Gateway, copied_example, running_gateway
from xml_pipeline.envelope.codec import decode_envelope
from xml_pipeline.message_bus.topology import Names

SHOUT = b"<shouter.shout><text>hi</text></shouter.shout>"
PAGE = {"deadLetters", "count", "total", "offset", "limit"}
LETTER = {
    *("id", "messageId", "threadId", "listener", "code", "reason", "attempts", "createdAt"),
    *("redrivenAt", "redriveId", "redrivable", "payload"),
}


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


async def _change(gateway: Gateway, statement: str, **parameters: Any) -> None:
    async with gateway.database.begin() as connection:
        await connection.execute(text(statement), parameters)


async def _failed(gateway: Gateway, body: bytes = SHOUT, kind: str = "request", tag: str = "shouter.shout") -> UUID:
    """A dead letter about a message from `greeter` to `shouter` that failed."""
    ids = {"letter": uuid4(), "thread": uuid4(), "message": uuid4()}
    await _change(gateway, "insert into threads (id, status, slots) values (:id, 'completed', 1)", id=ids["thread"])
    message = """
        insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, call_id, mailbox, state,
                              outcome)
        values (:message, :thread, 1, 'greeter', 'shouter', :kind, :tag, :body, :message, false, 'closed', 'failed')
    """
    await _change(gateway, message, message=ids["message"], thread=ids["thread"], kind=kind, tag=tag, body=body)
    letter = """
        insert into dead_letters (id, message_id, thread_id, listener, code, reason, attempts, body)
        values (:letter, :message, :thread, 'shouter', 'handler-failed', 'no voice', 3, :body)
    """
    await _change(gateway, letter, **ids, body=body)
    return ids["letter"]


async def _junk(gateway: Gateway, code: str = "unreadable") -> UUID:
    id_ = uuid4()
    insert = "insert into dead_letters (id, code, reason, body) values (:id, :code, 'no XML', :body)"
    await _change(gateway, insert, id=id_, code=code, body=b"\x00\xff")
    return id_


async def _redrive(gateway: Gateway, letter: UUID, body: Any = None) -> httpx.Response:
    return await gateway.http.post(f"{API}/dead-letters/{letter}/redrive", json=body)


async def _actions(gateway: Gateway) -> list[tuple[str, str]]:
    async with gateway.database.begin() as connection:
        rows = await connection.execute(text("select action, subject from audit_log order by id"))
        return [(row.action, row.subject) for row in rows]


async def test_they_are_listed_with_the_newest_first(gateway: Gateway) -> None:
    ids = [str(await _failed(gateway)), str(await _junk(gateway))]
    page = await gateway.get("/dead-letters")
    assert page.keys() == PAGE
    assert [letter["id"] for letter in page["deadLetters"]] == ids[::-1]
    assert (page["count"], page["total"], page["offset"], page["limit"]) == (2, 2, 0, 50)
    junk, failed = page["deadLetters"]
    assert junk.keys() == LETTER
    assert (junk["messageId"], junk["threadId"], junk["listener"], junk["payload"]) == (None,) * 4
    assert (junk["redrivable"], failed["redrivable"]) == (False, True)
    assert (failed["listener"], failed["code"], failed["reason"]) == ("shouter", "handler-failed", "no voice")
    assert (failed["attempts"], failed["payload"], failed["redrivenAt"]) == (3, {"text": "hi"}, None)


async def test_they_can_be_chosen(gateway: Gateway) -> None:
    failed, junk = await _failed(gateway), await _junk(gateway)
    thread = (await gateway.get(f"/dead-letters/{failed}"))["threadId"]
    await _redrive(gateway, failed)
    for parameters, expected in (
        ({"listener": "shouter"}, [failed]),
        ({"listener": "nobody"}, []),
        ({"listener": "\x00"}, []),
        ({"thread": thread}, [failed]),
        ({"thread": "none"}, []),
        ({"code": "unreadable"}, [junk]),
        ({"redriven": "true"}, [failed]),
        ({"redriven": "false"}, [junk]),
        ({"since": "2020-01-01"}, [junk, failed]),
        ({"since": "2100-01-01"}, []),
        ({"limit": 1, "offset": 1}, [failed]),
    ):
        found = await gateway.get("/dead-letters", **parameters)
        assert [letter["id"] for letter in found["deadLetters"]] == [str(id_) for id_ in expected], parameters


async def test_one_is_shown_with_its_exact_bytes(gateway: Gateway) -> None:
    failed = await gateway.get(f"/dead-letters/{await _failed(gateway)}")
    assert failed.keys() == LETTER | {"body", "xml"}
    assert (b64decode(failed["body"]), failed["xml"]) == (SHOUT, SHOUT.decode())
    junk = await gateway.get(f"/dead-letters/{await _junk(gateway)}")
    assert (b64decode(junk["body"]), junk["xml"]) == (b"\x00\xff", None)


async def test_a_redrive_is_accepted_like_an_inject(gateway: Gateway) -> None:
    consumer = await gateway.broker.connect().consume(Names("hello-world").ingress, prefetch=10)
    letter = await _failed(gateway)
    answer = await gateway.http.post(f"{API}/dead-letters/{letter}/redrive")
    body = answer.json()
    new = str(uuid5(letter, "redrive"))
    assert (answer.status_code, body["success"], body["messageId"]) == (200, True, new)
    [delivery] = await consumer.batch(10)
    envelope = decode_envelope(delivery.body)
    assert (delivery.headers["message-id"], envelope.to_id, envelope.payload) == (new, "shouter", SHOUT)
    assert (await gateway.get(f"/threads/{body['threadId']}"))["status"] == "active"
    shown = await gateway.get(f"/dead-letters/{letter}")
    assert (shown["redriveId"], shown["redrivable"], bool(shown["redrivenAt"])) == (new, False, True)
    history = (await gateway.get(f"/threads/{body['threadId']}/messages"))["messages"]
    assert [(message["id"], message["from"], message["slotIndex"]) for message in history[1:]] == [(new, "greeter", 1)]
    assert await _actions(gateway) == [("redrive", str(letter))]


async def test_the_same_again_is_the_same_answer_and_another_payload_is_refused(gateway: Gateway) -> None:
    letter = await _failed(gateway)
    first = await _redrive(gateway, letter, {"payload": {"text": "better"}})
    again = await _redrive(gateway, letter, {"payload": {"text": "better"}})
    assert (again.status_code, again.json()) == (200, first.json())
    for other in (None, {"payload": {"text": "other"}}):
        refused = await _redrive(gateway, letter, other)
        assert (refused.status_code, refused.json()["code"]) == (409, "already-redriven")
    async with gateway.database.begin() as connection:
        body = await connection.scalar(text("select body from inbox"))
    assert decode_envelope(body).payload == b"<shouter.shout><text>better</text></shouter.shout>"
    assert len(await _actions(gateway)) == 1


async def test_a_payload_that_does_not_fit_is_refused_with_its_faults(gateway: Gateway) -> None:
    letter = await _failed(gateway)
    for body, path in (({"payload": {"txt": "x"}}, "txt"), ({"text": "not wrapped"}, "text"), ([], "body")):
        refused = await _redrive(gateway, letter, body)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
        assert path in [fault["path"] for fault in refused.json()["errors"]]
    huge = await _redrive(gateway, letter, {"payload": {"text": "<" * 100_000}})
    assert huge.status_code == 413
    assert (await gateway.get(f"/dead-letters/{letter}"))["redrivable"]


async def test_one_whose_own_payload_fits_no_more_needs_another(gateway: Gateway) -> None:
    letter = await _failed(gateway, b"<shouter.shout><words>hi</words></shouter.shout>")
    assert (await gateway.get(f"/dead-letters/{letter}"))["payload"] is None
    assert (await _redrive(gateway, letter)).status_code == 422
    assert (await _redrive(gateway, letter, {"payload": {"text": "hi"}})).status_code == 200


async def test_a_reply_is_checked_as_what_it_answers_with(gateway: Gateway) -> None:
    reply = b"<greeter.greeted><text>hi</text></greeter.greeted>"
    letter = await _failed(gateway, reply, "response", "greeter.greeted")
    assert (await gateway.get(f"/dead-letters/{letter}"))["payload"] == {"text": "hi"}
    assert (await _redrive(gateway, letter)).status_code == 200
    unknown = await _failed(gateway, b"<gone.done></gone.done>", "response", "gone.done")
    assert (await _redrive(gateway, unknown)).json()["code"] == "not-redrivable"


@pytest.mark.parametrize("code", ["unreadable", "usage-refused"])
async def test_what_never_was_a_message_is_not_redriven(gateway: Gateway, code: str) -> None:
    refused = await _redrive(gateway, await _junk(gateway, code))
    assert (refused.status_code, refused.json()["code"]) == (409, "not-redrivable")


async def test_a_killed_thread_is_not_redriven(gateway: Gateway) -> None:
    letter = await _failed(gateway)
    thread = (await gateway.get(f"/dead-letters/{letter}"))["threadId"]
    await gateway.http.post(f"{API}/threads/{thread}/kill")
    refused = await _redrive(gateway, letter)
    assert (refused.status_code, refused.json()["code"]) == (409, "thread-killed")
    assert (await gateway.get(f"/dead-letters/{letter}"))["redrivable"] is False


async def test_deleting(gateway: Gateway) -> None:
    junk, failed = await _junk(gateway), await _failed(gateway)
    deleted = await gateway.http.delete(f"{API}/dead-letters/{junk}")
    assert (deleted.status_code, deleted.json()) == (200, {"success": True})
    assert (await gateway.http.delete(f"{API}/dead-letters/{junk}")).status_code == 404
    await _redrive(gateway, failed)
    refused = await gateway.http.delete(f"{API}/dead-letters/{failed}")
    assert (refused.status_code, refused.json()["code"]) == (409, "redrive-pending")
    await _change(gateway, "update inbox set taken_at = now()")
    assert (await gateway.http.delete(f"{API}/dead-letters/{failed}")).status_code == 200
    assert (await gateway.get("/dead-letters"))["total"] == 0
    actions = [("dead-letter-delete", str(junk)), ("redrive", str(failed)), ("dead-letter-delete", str(failed))]
    assert await _actions(gateway) == actions
