"""A gateway with a real database, whatever else is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from websockets.asyncio.client import connect

from tests.integration.gateway_support import API, LIMIT, Gateway, copied_example, running_gateway
from tests.support.postgres_server import PostgresServer
from xml_pipeline.envelope.codec import decode_envelope
from xml_pipeline.errors import Unavailable
from xml_pipeline.message_bus.messages import EventFrame, Heartbeat
from xml_pipeline.message_bus.port import Outgoing
from xml_pipeline.message_bus.topology import Binding, Names
from xml_pipeline.quiet_server import bind
from xml_pipeline.storage import organism_state
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate_database

NAMES = Names("hello-world")
ECHO = """
  - name: echo
    payload_class: hello.Shout
    response_class: hello.Shouted
    handler: hello.shout
    description: Says it again
"""


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


async def until(probe: Callable[[], Awaitable[object]], what: str) -> None:
    async with asyncio.timeout(LIMIT):
        while not await probe():  # noqa: ASYNC110 - a condition in a database has no event
            await asyncio.sleep(0.02)


async def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    async with database.begin() as connection:
        return [tuple(row) for row in await connection.execute(text(statement))]


class TestInjects:
    async def test_an_inject_is_a_row_and_an_envelope_on_ingress(self, gateway: Gateway) -> None:
        consumer = await gateway.broker.connect().consume(NAMES.ingress, prefetch=10)
        answer = (await gateway.inject()).json()
        [delivery] = await consumer.batch(10)
        assert delivery.headers["message-id"] == answer["messageId"]
        envelope = decode_envelope(delivery.body)
        assert (envelope.from_id, envelope.to_id, str(envelope.thread_id)) == ("api", "greeter", answer["threadId"])
        assert envelope.payload == b"<greeter.greeting><name>Dan</name></greeter.greeting>"
        [(id_, body)] = await rows(gateway.database, "select id, body from inbox")
        assert (id_, body) == (UUID(answer["messageId"]), delivery.body)

    async def test_many_at_once_share_commits_and_are_answered_each(self, gateway: Gateway) -> None:
        before = await rows(gateway.database, "select pg_current_xact_id()::text::bigint")
        answers = await asyncio.gather(*(gateway.inject(f"n{number}") for number in range(100)))
        after = await rows(gateway.database, "select pg_current_xact_id()::text::bigint")
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["messageId"] for answer in answers}) == 100
        assert await rows(gateway.database, "select count(*) from inbox") == [(100,)]
        assert int(str(after[0][0])) - int(str(before[0][0])) < 100

    async def test_one_key_many_times_at_once_is_one_message(self, gateway: Gateway) -> None:
        headers = {"Idempotency-Key": "once"}
        answers = await asyncio.gather(*(gateway.inject(**headers) for _ in range(20)))
        assert len({answer.text for answer in answers}) == 1
        assert await rows(gateway.database, "select count(*) from inbox") == [(1,)]
        assert (await gateway.inject("Eve", **headers)).status_code == 422

    async def test_one_key_at_two_gateways_is_one_message(self, gateway: Gateway, database_url: str) -> None:
        async with running_gateway(database_url, gateway.file, broker=gateway.broker) as other:
            answers = await asyncio.gather(
                *(
                    one.inject(**{"Idempotency-Key": f"k{number % 5}"})
                    for number in range(50)
                    for one in (gateway, other)
                )
            )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 5
        assert await rows(gateway.database, "select count(*), count(distinct thread_id) from inbox") == [(5, 5)]

    async def test_a_killed_thread_takes_nothing(self, gateway: Gateway) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        await gateway.http.post(f"{API}/threads/{thread}/kill")
        refused = await gateway.inject(thread=thread)
        assert (refused.status_code, refused.json()["code"]) == (409, "thread-killed")

    async def test_text_that_grows_when_it_is_escaped(self, gateway: Gateway) -> None:
        answer = await gateway.inject("<" * 100_000)
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")

    async def test_what_comes_back_is_told_by_the_feed(self, gateway: Gateway) -> None:
        key = str(uuid4())
        waiting = asyncio.create_task(gateway.inject(**{"Idempotency-Key": key, "Prefer": "wait=15"}))
        await until(lambda: rows(gateway.database, "select id from inbox"), "the inbox row")
        [(inject,)] = await rows(gateway.database, "select id from inbox")
        event = {
            "event": "message",
            "id": str(uuid4()),
            "threadId": str(uuid4()),
            "from": "greeter",
            "to": "api",
            "payloadType": "greeter.greeted",
            "payloadXml": "<greeter.greeted><text>HI</text></greeter.greeted>",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "slotIndex": 4,
            "answers": str(inject),
        }
        bus = gateway.broker.connect()
        body = EventFrame(events=(event,)).model_dump_json().encode()
        await bus.publish([Outgoing(NAMES.events, "feed.router", body, persistent=False)])
        answer = (await waiting).json()
        assert answer["reply"]["payload"] == {"text": "HI"}
        assert answer["reply"]["slotIndex"] == 3


class TestSteering:
    async def test_each_is_a_row_an_entry_and_a_hint(self, gateway: Gateway) -> None:
        hints = await gateway.broker.connect().subscribe([Binding(NAMES.control, "")])
        thread = (await gateway.inject()).json()["threadId"]
        for path in ("/agents/shouter/pause", f"/threads/{thread}/kill", "/agents/shouter/resume"):
            assert (await gateway.http.post(API + path)).status_code == 200
        seen: list[str] = []
        async with asyncio.timeout(LIMIT):
            while len(seen) < 3:
                seen += [json.loads(delivery.body)["kind"] for delivery in await hints.batch(10)]
        assert seen == ["pause", "kill", "resume"]
        entries = await rows(gateway.database, "select action, subject from audit_log order by id")
        assert entries == [("pause", "shouter"), ("kill", thread), ("resume", "shouter")]

    async def test_paused_is_shown(self, gateway: Gateway) -> None:
        await gateway.http.post(f"{API}/agents/greeter/pause")
        await gateway.inject()
        agent = await gateway.get("/agents/greeter")
        assert (agent["state"], agent["queueDepth"]) == ("paused", 1)

    async def test_a_stop_asked_of_it_ends_it(self, gateway: Gateway) -> None:
        answer = await gateway.http.post(f"{API}/organism/stop")
        assert answer.json() == {"success": True}
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([gateway.task])
        assert gateway.task.exception() is None

    async def test_a_stop_ends_its_websockets(self, gateway: Gateway) -> None:
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket:
            await socket.recv()
            await gateway.http.post(f"{API}/organism/stop")
            async with asyncio.timeout(LIMIT):
                await asyncio.wait([gateway.task])
                await socket.wait_closed()
        assert gateway.task.exception() is None
        assert socket.close_code in (1001, 1012)

    async def test_a_stop_asked_elsewhere_ends_it(self, gateway: Gateway) -> None:
        async with gateway.database.begin() as connection:
            await organism_state.request_stop(connection, actor="test")
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([gateway.task])
        assert gateway.task.exception() is None


class TestReload:
    async def test_what_was_added_is_there(self, gateway: Gateway) -> None:
        gateway.file.write_text(gateway.file.read_text() + ECHO)
        answer = (await gateway.http.post(f"{API}/organism/reload")).json()
        assert answer == {"success": True, "added": ["echo"], "removed": [], "updated": [], "error": None}
        assert (await gateway.get("/agents"))["count"] == 3
        body = {"to": "echo", "payload": {"text": "x"}}
        assert (await gateway.http.post(f"{API}/inject", json=body)).status_code == 200
        assert await gateway.broker.connect().depth(NAMES.agent("echo")) == 0

    async def test_what_was_changed_is_told(self, gateway: Gateway) -> None:
        gateway.file.write_text(gateway.file.read_text().replace("Says it in capitals", "Shouts"))
        answer = (await gateway.http.post(f"{API}/organism/reload")).json()
        assert (answer["success"], answer["updated"]) == (True, ["shouter"])
        assert (await gateway.get("/agents/shouter"))["description"] == "Shouts"

    @pytest.mark.parametrize("content", ["organism: {", "organism: {name: other}\nlisteners: []\n", ""])
    async def test_with_a_fault_nothing_changes(self, gateway: Gateway, content: str) -> None:
        gateway.file.write_text(content)
        answer = (await gateway.http.post(f"{API}/organism/reload")).json()
        assert answer["success"] is False
        assert answer["error"]
        assert (await gateway.get("/agents"))["count"] == 2

    async def test_other_gateways_follow(self, gateway: Gateway, database_url: str) -> None:
        async with running_gateway(database_url, gateway.file) as other:
            gateway.file.write_text(gateway.file.read_text().replace("Says it in capitals", "Shouts"))
            await gateway.http.post(f"{API}/organism/reload")

            async def follows() -> bool:
                return bool((await other.get("/agents/shouter"))["description"] == "Shouts")

            await until(follows, "the other gateway to follow")


class TestStatus:
    async def test_it_runs_when_all_are_there(self, gateway: Gateway) -> None:
        assert (await gateway.get("/organism"))["status"] == "starting"
        bus = gateway.broker.connect()
        for service, listeners in (("router", ()), ("usage", ()), ("agent-worker", ("greeter", "shouter"))):
            beat = Heartbeat.model_validate({"service": service, "instance": "x", "listeners": listeners})
            await bus.publish([Outgoing(NAMES.events, f"heartbeat.{service}", beat.model_dump_json().encode())])

        async def runs() -> bool:
            return bool((await gateway.get("/organism"))["status"] == "running")

        await until(runs, "running")


class TestWhatIsGone:
    async def test_without_a_broker_injects_are_accepted_and_health_says_so(self, gateway: Gateway) -> None:
        assert (await gateway.http.get("/health")).json()["broker"] == "up"
        gateway.broker.stop()
        answer = await gateway.inject()
        assert answer.status_code == 200
        health = await gateway.http.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["broker"]) == (200, "healthy", "down")
        gateway.broker.start()

        async def back() -> bool:
            return bool((await gateway.http.get("/health")).json()["broker"] == "up")

        await until(back, "the broker's return")

    async def test_without_a_database_it_answers_503_and_goes_on_after(self, tmp_path: Path) -> None:
        server = PostgresServer()
        await asyncio.to_thread(server.create)
        await asyncio.to_thread(server.start)
        try:
            await migrate_database(server.url())
            async with running_gateway(server.url(), copied_example(tmp_path)) as gateway:
                await self._lose_and_find(gateway, server)
        finally:
            await asyncio.to_thread(server.close)

    async def _lose_and_find(self, gateway: Gateway, server: PostgresServer) -> None:
        assert (await gateway.inject()).status_code == 200
        await asyncio.to_thread(server.stop)
        for answer in (await gateway.inject(), await gateway.http.get(f"{API}/threads")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["code"] == "database-unavailable"
        health = await gateway.http.get("/health")
        assert (health.status_code, health.json()["database"]) == (503, "down")
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket:
            assert json.loads(await socket.recv())["event"] == "error"
            await socket.wait_closed()
        assert socket.close_code == 1013
        assert (await gateway.http.get(f"{API}/capabilities")).status_code == 200
        await asyncio.to_thread(server.start)
        assert (await gateway.inject()).status_code == 200
        assert (await gateway.http.get("/health")).json()["database"] == "up"


class TestFeed:
    async def test_junk_on_the_feed_harms_nobody(self, gateway: Gateway) -> None:
        bus = gateway.broker.connect()
        junk = [b"", b"{", b"[]", b'{"events": [1]}', b'{"events": [{"event": "message"}]}', b'{"events": [{}]}']
        await bus.publish([Outgoing(NAMES.events, "feed.router", body, persistent=False) for body in junk])
        await bus.publish([Outgoing(NAMES.events, "heartbeat.router", b"x", persistent=False)])
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket:
            assert json.loads(await socket.recv())["event"] == "connected"
            thread = (await gateway.inject()).json()["threadId"]
            async with asyncio.timeout(LIMIT):
                event = json.loads(await socket.recv())
        assert (event["event"], event["thread"]["id"]) == ("thread_created", thread)

    async def test_a_message_that_is_published_twice_is_told_once(self, gateway: Gateway) -> None:
        bus = gateway.broker.connect()
        message = {
            "event": "message",
            "threadId": str(uuid4()),
            "from": "api",
            "to": "greeter",
            "payloadType": "greeter.greeting",
            "payloadXml": "<greeter.greeting><name>Dan</name></greeter.greeting>",
            "timestamp": "2026-01-01T00:00:00+00:00",
            "slotIndex": 1,
        }
        first, second = str(uuid4()), str(uuid4())
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws/messages") as socket:
            for id_ in (first, first, second):
                body = EventFrame(events=({**message, "id": id_},)).model_dump_json().encode()
                await bus.publish([Outgoing(NAMES.events, "feed.router", body, persistent=False)])
            async with asyncio.timeout(LIMIT):
                seen = [json.loads(await socket.recv())["id"] for _ in range(2)]
        assert seen == [first, second]

    async def test_a_message_that_the_feed_lost_is_told_all_the_same(self, gateway: Gateway) -> None:
        thread = (await gateway.inject()).json()["threadId"]
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws/messages") as socket:
            await until(lambda: _watched_for_a_while(gateway), "the gateway's first look")
            id_ = uuid4()
            async with gateway.database.begin() as connection:
                await connection.execute(
                    text("""
                        insert into messages (id, thread_id, slot, from_id, to_id, kind,
                                              payload_type, body, mailbox, state)
                        values (:id, :thread, 1, 'api', 'greeter', 'request', 'greeter.greeting',
                                '<greeter.greeting><name>Dan</name></greeter.greeting>', true, 'waiting')
                    """),
                    {"id": id_, "thread": UUID(thread)},
                )
            async with asyncio.timeout(LIMIT):
                told = json.loads(await socket.recv())
        assert (told["id"], told["payload"], told["slotIndex"]) == (str(id_), {"name": "Dan"}, 0)


async def _watched_for_a_while(gateway: Gateway) -> bool:
    """Two rounds of the gateway's watch: heartbeats come from the same clock."""
    beats = await gateway.broker.connect().subscribe([Binding(NAMES.events, "", "heartbeat.gateway")])
    seen = 0
    while seen < 3:
        seen += len(await beats.batch(10))
    return True


async def test_a_port_that_is_taken(gateway: Gateway) -> None:
    with pytest.raises(Unavailable, match=f"127.0.0.1:{gateway.port}"):
        bind("127.0.0.1", gateway.port)
