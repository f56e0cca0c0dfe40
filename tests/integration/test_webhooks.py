"""Thresholds told to a webhook: signed, again until they arrive, each by one sender."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from sqlalchemy import text

from tests.integration.ledger_support import PRICING, ask, handled_message, numbers, used
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.ledger.webhooks import WebhookSender
from xml_pipeline.organism.budgets import Budgets, Webhook
from xml_pipeline.storage.database import Database

SECRET = "whsec_" + base64.b64encode(b"a key of ours").decode()
VARIABLE = "TEST_WEBHOOK_SECRET"


@dataclass
class Receiver:
    """Answers with these statuses in turn, 204 afterwards; keeps what came."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def accepted(self) -> list[dict[str, object]]:
        return [json.loads(body) for _, body in self.got]


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
async def db(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setenv(VARIABLE, SECRET)
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


def _sender(db: Database, url: str) -> WebhookSender:
    sender = WebhookSender(db)
    sender.configure(Webhook(url, VARIABLE))
    return sender


async def _cross(db: Database, url: str, tokens: int = 950) -> None:
    """Spend so much of a thread's thousand."""
    rules = Rules(1000, Budgets(webhook=Webhook(url, VARIABLE)))
    message = await handled_message(db)
    request = ask(message, prompt=tokens, completion=0)
    reply = (await books.book(db, [request], rules=rules, pricing=PRICING)).replies[0]
    event = used(message, request.call_id, prompt=tokens, completion=0, at=reply.granted_at)
    await books.book(db, [event, event], rules=rules, pricing=PRICING)
    await books.book(db, [event], rules=rules, pricing=PRICING)


async def _due_now(db: Database) -> None:
    async with db.begin() as connection:
        await connection.execute(text("update webhook_deliveries set next_at = now()"))


async def test_each_threshold_is_told_once_and_signed(db: Database) -> None:
    with receiving() as receiver:
        await _cross(db, receiver.url)
        await asyncio.gather(*(_sender(db, receiver.url).step() for _ in range(3)))
        await _sender(db, receiver.url).step()
    told = sorted(receiver.accepted(), key=lambda event: str(event["threshold"]))
    assert [(event["event"], event["scope"], event["threshold"], event["totalTokens"]) for event in told] == [
        ("budget", "thread", percent, 950) for percent in (75, 90, 95)
    ]
    for headers, body in receiver.got:
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"a key of ours", signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert await numbers(db, "select count(*), count(delivered_at) from webhook_deliveries") == (3, 3)


@pytest.mark.parametrize("status", [500, 302, 404])
async def test_what_is_not_taken_comes_again_with_the_same_id(db: Database, status: int) -> None:
    with receiving(status) as receiver:
        await _cross(db, receiver.url, tokens=800)
        sender = _sender(db, receiver.url)
        await sender.step()
        row = "select attempts, error, delivered_at is null, next_at > now() from webhook_deliveries"
        assert await numbers(db, row) == (1, f"HTTP {status}", True, True)
        await sender.step()
        assert len(receiver.got) == 1
        await _due_now(db)
        await sender.step()
    first, second = (UUID(headers["webhook-id"]) for headers, _ in receiver.got)
    assert first == second
    assert await numbers(db, "select attempts, delivered_at is not null from webhook_deliveries") == (2, True)


async def test_nobody_at_the_address_is_tried_for_a_day(db: Database) -> None:
    url = "http://127.0.0.1:1/hook"
    await _cross(db, url, tokens=800)
    await _sender(db, url).step()
    assert await numbers(db, "select error, failed_at is null from webhook_deliveries") == ("ConnectError", True)
    async with db.begin() as connection:
        await connection.execute(
            text("update webhook_deliveries set created_at = now() - interval '25 hours', next_at = now()")
        )
    await _sender(db, url).step()
    assert await numbers(db, "select attempts, failed_at is null from webhook_deliveries") == (2, False)
    await _due_now(db)
    await _sender(db, url).step()
    assert await numbers(db, "select attempts from webhook_deliveries") == (2,)


async def test_without_its_secret_nothing_is_sent_and_nothing_is_lost(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        await _cross(db, receiver.url, tokens=800)
        monkeypatch.delenv(VARIABLE)
        await _sender(db, receiver.url).step()
        assert receiver.got == []
        monkeypatch.setenv(VARIABLE, SECRET)
        await _sender(db, receiver.url).step()
        assert len(receiver.got) == 1


async def test_what_a_sender_had_in_hand_when_it_died_is_sent_by_another(db: Database) -> None:
    """It was claimed, and perhaps sent: after its lease it is due again."""
    with receiving() as receiver:
        await _cross(db, receiver.url, tokens=800)
        async with db.begin() as connection:
            await connection.execute(
                text("update webhook_deliveries set attempts = 1, next_at = now() + interval '60 seconds'")
            )
        await _sender(db, receiver.url).step()
        assert receiver.got == []
        await _due_now(db)
        await _sender(db, receiver.url).step()
        assert len(receiver.got) == 1
