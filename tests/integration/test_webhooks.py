"""Webhooks: sent to a receiver that fails, hangs and dies; signed; once where nobody dies, with the same id always."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from tests.integration.ledger_support import PRICING, ask, handled_message, numbers, used
from tests.support.fleet import Fleet
from tests.support.receiver import Receiver, Step, ids, receiving
from xml_pipeline.health.health import Health
from xml_pipeline.ledger import books
from xml_pipeline.ledger.model import Rules
from xml_pipeline.ledger.signing import signature
from xml_pipeline.ledger.webhooks import WebhookSender
from xml_pipeline.organism.budgets import Budgets, Webhook
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.webhooks import NewDelivery, add_deliveries

SECRET = "whsec_c2VjcmV0"
ENVIRONMENT = {"HOOK": SECRET}
BODY = {"event": "budget", "name": "größer", "threshold": 75, "percentUsed": 75.0}


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=10)
    yield database
    await database.close()


def sender_to(db: Database, url: str, **changes: float) -> WebhookSender:
    sender = WebhookSender(db, Health(), environment=ENVIRONMENT, **changes)
    sender.configure(Webhook(url, "HOOK"))
    return sender


async def add(db: Database, count: int = 1) -> list[UUID]:
    news = [NewDelivery(uuid4(), 75, BODY) for _ in range(count)]
    async with db.begin() as connection:
        await add_deliveries(connection, news)
    return [each.id for each in news]


async def execute(db: Database, statement: str) -> None:
    async with db.begin() as connection:
        await connection.execute(text(statement))


async def cross(db: Database, url: str, tokens: int) -> None:
    """Spend so much of a thread's thousand, and say so three times."""
    rules = Rules(1000, Budgets(webhook=Webhook(url, "HOOK")))
    message = await handled_message(db)
    request = ask(message, prompt=tokens, completion=0)
    reply = (await books.book(db, [request], rules=rules, pricing=PRICING)).replies[0]
    event = used(message, request.call_id, prompt=tokens, completion=0, at=reply.granted_at)
    await books.book(db, [event, event], rules=rules, pricing=PRICING)
    await books.book(db, [event], rules=rules, pricing=PRICING)


async def become_due(db: Database) -> None:
    """Time goes on."""
    await execute(db, "update webhook_deliveries set next_at = now() where num_nulls(delivered_at, failed_at) = 2")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


STATE = "select attempts, delivered_at is not null, failed_at is not null, error from webhook_deliveries"


async def test_each_threshold_that_is_reached_is_told_once(db: Database) -> None:
    async with receiving() as receiver:
        await cross(db, receiver.url, 950)
        senders = [sender_to(db, receiver.url) for _ in range(3)]
        assert sum(await asyncio.gather(*(sender.send_due() for sender in senders))) == 3
        for sender in senders:
            await sender.close()
    told = sorted((json.loads(posted.body) for posted in receiver.posted), key=lambda event: str(event["threshold"]))
    assert [(event["event"], event["scope"], event["threshold"], event["totalTokens"]) for event in told] == [
        ("budget", "thread", percent, 950) for percent in (75, 90, 95)
    ]
    assert await numbers(db, "select count(*), count(delivered_at) from webhook_deliveries") == (3, 3)


async def test_it_is_posted_signed_and_done(db: Database) -> None:
    (id_,) = await add(db)
    async with receiving() as receiver:
        sender = sender_to(db, receiver.url)
        assert await sender.send_due() == 1
        assert await sender.send_due() == 0
        await sender.close()
    (posted,) = receiver.posted
    assert posted.line == "POST /hook?token=hush HTTP/1.1"
    assert json.loads(posted.body) == BODY
    assert posted.id == str(id_)
    assert posted.headers["content-type"] == "application/json"
    sent_at = posted.headers["webhook-timestamp"]
    assert abs(int(sent_at) - time.time()) < 60
    assert posted.headers["webhook-signature"] == signature(posted.id, sent_at, posted.body, b"secret")
    assert await numbers(db, STATE) == (1, True, False, None)


async def test_a_receiver_that_fails_and_hangs_is_asked_until_it_takes_it(db: Database) -> None:
    await add(db)
    steps = (Step(503), Step(hang=True), Step(drop=True), Step(302, {"Location": "/elsewhere"}), Step(200))
    said = ["answered 503", "no answer within 0.3 s", "RemoteProtocolError", "answered 302"]
    async with receiving(*steps) as receiver:
        sender = sender_to(db, receiver.url, timeout=0.3)
        for attempt, error in enumerate(said, start=1):
            assert await sender.send_due() == 0
            assert await numbers(db, STATE) == (attempt, False, False, error)
            # Not before its time.
            assert await sender.send_due() == 0
            await become_due(db)
        assert await sender.send_due() == 1
        await sender.close()
    assert len(set(ids(receiver.posted))) == 1
    assert len({posted.body for posted in receiver.posted}) == 1
    assert [posted.line.split()[1] for posted in receiver.posted] == ["/hook?token=hush"] * 5
    assert await numbers(db, STATE) == (5, True, False, None)


async def test_waits_grow_and_are_no_longer_than_they_say(db: Database) -> None:
    await add(db)
    wait = "select extract(epoch from next_at - now())::float8 from webhook_deliveries"
    async with receiving(Step(500)) as receiver:
        sender = sender_to(db, receiver.url)
        for ideal in (5, 10, 20):
            await sender.send_due()
            (seconds,) = await numbers(db, wait)
            assert isinstance(seconds, float)
            assert 0.8 * ideal - 2 <= seconds <= 1.2 * ideal
            await become_due(db)
        await sender.close()


async def test_after_a_day_it_is_given_up_and_stays_to_be_seen(db: Database) -> None:
    await add(db)
    await execute(db, "update webhook_deliveries set created_at = now() - interval '24 hours'")
    async with receiving(Step(500)) as receiver:
        sender = sender_to(db, receiver.url)
        assert await sender.send_due() == 0
        await become_due(db)
        assert await sender.send_due() == 0
        await sender.close()
    assert len(receiver.posted) == 1
    assert await numbers(db, STATE) == (1, False, True, "answered 500")


async def test_a_receiver_that_is_not_there(db: Database) -> None:
    await add(db)
    async with receiving() as receiver:
        pass
    sender = sender_to(db, receiver.url)
    with capture_logs() as logs:
        assert await sender.send_due() == 0
    await sender.close()
    attempts, delivered, _, error = await numbers(db, STATE)
    assert (attempts, delivered) == (1, False)
    assert str(error).startswith("ConnectError")
    assert "hush" not in f"{error} {logs}"


async def test_an_answer_without_an_end_is_not_waited_for(db: Database) -> None:
    await add(db)
    async with receiving(Step(200, endless=True)) as receiver:
        sender = sender_to(db, receiver.url, timeout=30)
        async with asyncio.timeout(10):
            assert await sender.send_due() == 1
        await sender.close()


async def test_without_a_secret_nothing_is_sent_and_nothing_lost(db: Database) -> None:
    await add(db)
    health = Health()
    async with receiving() as receiver:
        environment: dict[str, str] = {}
        sender = WebhookSender(db, health, environment=environment)
        sender.configure(Webhook(receiver.url, "HOOK"))
        with capture_logs() as logs:
            for _ in range(3):
                assert await sender.send_due() == 0
        (said,) = [entry for entry in logs if entry["event"] == "webhook_not_signed"]
        assert "HOOK is not set" in said["reason"]
        assert said["due"] == 1
        assert [(check.name, check.state, check.ok) for check in health.ready().checks] == [
            ("webhook-secret", "down", True)
        ]
        assert receiver.posted == []
        assert await numbers(db, STATE) == (0, False, False, None)
        environment.update(ENVIRONMENT)
        assert await sender.send_due() == 1
        await sender.close()
    assert health.ready().checks[0].state == "up"


async def test_without_a_webhook_what_is_due_stays(db: Database) -> None:
    await add(db)
    sender = WebhookSender(db, Health(), environment=ENVIRONMENT)
    assert await sender.send_due() == 0
    async with receiving() as receiver:
        sender.configure(Webhook(receiver.url, "HOOK"))
        assert await sender.send_due() == 1
    await sender.close()


async def test_two_services_send_each_once(db: Database) -> None:
    added = await add(db, 60)
    async with receiving() as receiver:
        senders = [sender_to(db, receiver.url) for _ in range(2)]
        delivered = await asyncio.gather(*(sender.send_due() for sender in senders))
        for sender in senders:
            await sender.close()
    assert sum(delivered) == 60
    assert sorted(ids(receiver.posted)) == sorted(map(str, added))


async def test_a_slow_sender_says_nothing_about_a_later_attempt(db: Database) -> None:
    """Its claim is over, another has it now, and what it has to say is out of date."""
    await add(db)
    async with receiving(Step(hang=True)) as slow, receiving(Step(500)) as quick:
        late = sender_to(db, slow.url, timeout=1, lease=0.05)
        sending = asyncio.create_task(late.send_due())
        await until(lambda: len(slow.posted) == 1)
        await become_due(db)
        other = sender_to(db, quick.url)
        assert await other.send_due() == 0
        before = await numbers(db, "select attempts, error, next_at from webhook_deliveries")
        assert await sending == 0
        assert await numbers(db, "select attempts, error, next_at from webhook_deliveries") == before
        await late.close()
        await other.close()


ORGANISM = """
organism: {{name: {name}}}
budgets:
  webhook: {{url: "{url}", secret_env: HOOK}}
listeners:
  - {{name: echo, payload_class: echo.Echo, handler: echo.echo, description: Says it again}}
"""
MODULE = """
from dataclasses import dataclass

@dataclass
class Echo:
    text: str

async def echo(payload: Echo, metadata: object) -> None:
    return None
"""


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
def fleet(tmp_path: Path, organism_name: str, amqp_url: str, database_url: str, receiver: Receiver) -> Fleet:
    (tmp_path / "organism.yaml").write_text(ORGANISM.format(name=organism_name, url=receiver.url))
    (tmp_path / "echo.py").write_text(MODULE)
    return Fleet(tmp_path / "organism.yaml", amqp_url, database_url, tmp_path, environment=ENVIRONMENT)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("moment", "posts"), [("webhook.after-claim", 0), ("webhook.after-post", 1)])
async def test_killed_while_it_sends_it_comes_again_with_the_same_id(
    fleet: Fleet, receiver: Receiver, db: Database, moment: str, posts: int
) -> None:
    (id_,) = await add(db)
    try:
        doomed = fleet.start_one("usage", environment={"ORGANISM_FAILPOINTS": f"{moment}=kill"})
        await until(lambda: not doomed.alive)
        assert ids(receiver.posted) == [str(id_)] * posts
        assert (await numbers(db, STATE))[:2] == (1, False)
        # Claimed still; a minute later it is due again.
        await become_due(db)
        fleet.start_one("usage")
        await until(lambda: len(receiver.posted) == posts + 1)
        assert set(ids(receiver.posted)) == {str(id_)}
        async with asyncio.timeout(20):
            while not (await numbers(db, STATE))[1]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except BaseException:
        print(fleet.logs())
        raise
    finally:
        await asyncio.to_thread(fleet.stop)
