"""A backlog at its limit: injects are sent away for a while, at every gateway, and nothing else is."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import httpx
from sqlalchemy import text
from websockets.asyncio.client import connect

from tests.integration.gateway_support import API, LIMIT, Gateway, copied_example, running_gateway
from xml_pipeline.storage.backlog import BacklogLimits, count_backlog
from xml_pipeline.storage.database import Database

NAME = "{name: hello-world"


def limited(folder: Path, limits: str, *, shouter: int | None = None) -> Path:
    """The example with limits."""
    file = copied_example(folder)
    written = file.read_text().replace(NAME, f"{NAME}, limits: {{{limits}}}", 1)
    if shouter is not None:
        written = written.replace("- name: shouter", f"- name: shouter\n    max_backlog: {shouter}", 1)
    file.write_text(written)
    return file


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def close_all(database: Database) -> None:
    """As if routers and workers had done all that is open."""
    async with database.begin() as connection:
        await connection.execute(text("update inbox set taken_at = now()"))
        await connection.execute(text("update threads set open = 0, status = 'completed'"))


async def test_a_full_organism_says_so_and_takes_again_when_work_is_done(database_url: str, tmp_path: Path) -> None:
    async with running_gateway(database_url, limited(tmp_path, "max_backlog: 5")) as gateway:
        first = await gateway.inject(**{"Idempotency-Key": "first"})
        answers = await asyncio.gather(*(gateway.inject() for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 16
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.headers["content-type"] == "application/problem+json"
        assert 1 <= int(refused.headers["retry-after"]) <= 3
        assert refused.json()["code"] == "organism-backlog"
        assert "5 messages" in refused.json()["detail"]
        again = await gateway.inject(**{"Idempotency-Key": "first"})
        assert (again.status_code, again.text) == (200, first.text)
        assert (await gateway.get("/agents/greeter"))["queueDepth"] == 5
        await close_all(gateway.database)
        await until_accepted(gateway)


async def until_accepted(gateway: Gateway) -> None:
    async with asyncio.timeout(LIMIT):
        while (await gateway.inject()).status_code != 200:  # noqa: ASYNC110 - polled, as clients do
            await asyncio.sleep(0.05)


async def test_a_full_thread_is_exact_across_gateways(database_url: str, tmp_path: Path) -> None:
    file = limited(tmp_path, "max_backlog_per_thread: 3")
    thread = str(uuid4())
    async with (
        running_gateway(database_url, file) as one,
        running_gateway(database_url, file, broker=one.broker) as other,
    ):
        answers = await asyncio.gather(*(at.inject(thread=thread) for _ in range(10) for at in (one, other)))
        assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 17
        assert told(await other.inject(thread=thread)) == (429, "thread-backlog")
        assert (await other.inject()).status_code == 200


async def test_a_listener_has_a_limit_of_its_own(database_url: str, tmp_path: Path) -> None:
    file = limited(tmp_path, "max_backlog_per_listener: 4", shouter=1)
    async with running_gateway(database_url, file) as gateway:
        shout = {"to": "shouter", "payload": {"text": "x"}}
        answers = [await gateway.http.post(f"{API}/inject", json=shout) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].json()["code"] == "listener-backlog"
        assert "'shouter' is at its limit of 1 messages" in answers[1].json()["detail"]
        assert [(await gateway.inject()).status_code for _ in range(5)] == [200] * 4 + [429]


async def test_what_other_gateways_accepted_is_known_a_second_later(database_url: str, tmp_path: Path) -> None:
    file = limited(tmp_path, "max_backlog: 10")
    async with (
        running_gateway(database_url, file) as one,
        running_gateway(database_url, file, broker=one.broker) as other,
    ):
        assert (await other.inject()).status_code == 200
        for _ in range(9):
            await one.inject()

        accepted = 0
        async with asyncio.timeout(LIMIT):
            while (answer := await other.inject()).status_code == 200:
                accepted += 1
        assert told(answer) == (429, "organism-backlog")
        # As many as it had room for by its own count, at most.
        assert accepted <= 9


async def test_over_a_websocket_it_is_an_error_event(database_url: str, tmp_path: Path) -> None:
    async with running_gateway(database_url, limited(tmp_path, "max_backlog: 1")) as gateway:
        await gateway.inject()
        async with connect(f"ws://127.0.0.1:{gateway.port}/ws") as socket, asyncio.timeout(LIMIT):
            assert json.loads(await socket.recv())["event"] == "connected"
            await socket.send(json.dumps({"cmd": "inject", "to": "greeter", "payload": {"name": "Dan"}}))
            while (event := json.loads(await socket.recv()))["event"] != "error":
                pass
        assert event["event"] == "error"
        assert "the backlog of the organism is at its limit of 1 messages" in event["error"]


async def test_the_count_is_by_listener_and_stops_where_the_organism_is_full(database_url: str) -> None:
    database = Database.connect(database_url)
    async with database.begin() as connection:
        await connection.execute(text("insert into threads (id) values (gen_random_uuid())"))
        await connection.execute(
            text("""
                insert into messages (id, thread_id, slot, from_id, to_id, kind, payload_type, body, mailbox, state)
                select gen_random_uuid(), (select id from threads), n, 'api', 'l' || n % 2, 'request', 't', '', false,
                       (array['waiting', 'ready', 'out', 'closed'])[1 + n % 4]
                from generate_series(1, 80) n
            """)
        )
        await connection.execute(
            text("""
                insert into inbox (id, thread_id, to_id, request_hash, body, taken_at)
                select gen_random_uuid(), (select id from threads), 'l0', '', '', case when n > 7 then now() end
                from generate_series(1, 20) n
            """)
        )
        roomy = BacklogLimits(organism=1000, thread=1, listener=1)
        assert await count_backlog(connection, roomy) == {"l0": 40 + 7, "l1": 20}
        full = await count_backlog(connection, BacklogLimits(organism=10, thread=1, listener=1))
        assert 10 <= full.total() < 67
    await database.close()
