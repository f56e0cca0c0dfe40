"""A PostgreSQL that takes connections and says nothing: no request waits for it longer than it should."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from websockets.asyncio.client import connect

from tests.integration.gateway_support import API, Gateway, copied_example, running_gateway
from tests.support.postgres_server import PostgresServer
from xml_pipeline.server.live.limits import ANSWER_WITHIN
from xml_pipeline.storage.schema import migrate

# A connection whose server is silent is given up within two seconds; the rest is for a busy machine.
AT_MOST = ANSWER_WITHIN + 2.0 + 3.0
KEY = {"Idempotency-Key": "the one"}

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.create()
    server.start()
    migrate(server.url())
    yield server
    server.resume()
    server.close()


@pytest.fixture
async def gateway(server: PostgresServer, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(server.url(), copied_example(tmp_path)) as gateway:
        gateway.http.timeout = httpx.Timeout(4 * AT_MOST)
        yield gateway


async def timed(ask: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = await ask
    return answer, time.monotonic() - began


async def test_all_are_told_in_time_and_the_same_key_tells_the_rest(gateway: Gateway, server: PostgresServer) -> None:
    await asyncio.gather(*(gateway.inject() for _ in range(20)))
    server.suspend()
    paths = ["/threads", "/agents", "/agents", "/agents", "/organism", "/messages", "/usage", "/usage/threads"]
    early = [gateway.inject(**KEY), *(gateway.inject() for _ in range(30)), *(_get(gateway, path) for path in paths)]
    greeted = asyncio.create_task(_greeting(gateway))
    asked = [asyncio.create_task(timed(one)) for one in early]
    # Those who come while a batch hangs wait for their own time and not for the batches before them.
    await asyncio.wait(asked, timeout=ANSWER_WITHIN / 2)
    asked += [asyncio.create_task(timed(gateway.inject())) for _ in range(10)]
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer, _ in answers} == {503}
    assert {answer.json()["code"] for answer, _ in answers} == {"database-unavailable"}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer, _ in answers)
    assert max(seconds for _, seconds in answers) <= AT_MOST
    assert await greeted == "error"
    server.resume()
    first = await _until_accepted(lambda: gateway.inject(**KEY))
    assert (await gateway.inject(**KEY)).text == first.text
    async with gateway.database.begin() as connection:
        [(id_,)] = await connection.execute(
            text("select id from inbox where id = cast(:id as uuid)"), {"id": first.json()["messageId"]}
        )
    assert str(id_) == first.json()["messageId"]


async def test_whoever_waits_for_a_reply_gets_the_ids_when_time_is_up(gateway: Gateway, server: PostgresServer) -> None:
    headers = {**KEY, "Prefer": "wait=3"}
    waiting = asyncio.create_task(timed(gateway.inject(**headers)))
    async with asyncio.timeout(AT_MOST):
        while not await _count_inbox(gateway):  # noqa: ASYNC110 - a condition in a database has no event
            await asyncio.sleep(0.02)
    server.suspend()
    answer, seconds = await waiting
    assert (answer.status_code, set(answer.json())) == (200, {"threadId", "messageId"})
    assert seconds <= AT_MOST


async def test_a_database_that_takes_no_writes_is_unavailable_for_injects_only(
    gateway: Gateway, server: PostgresServer
) -> None:
    await gateway.inject()
    async with gateway.database.begin() as connection:
        await connection.execute(text("alter database postgres set default_transaction_read_only = on"))
        # It counts for new sessions.
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'postgres'"
        await connection.execute(text(f"{others} and pid <> pg_backend_pid()"))
    assert (await _until(gateway.inject, 503)).json()["code"] == "database-unavailable"
    assert (await gateway.http.get(f"{API}/threads")).status_code == 200


async def _greeting(gateway: Gateway) -> str:
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws", open_timeout=AT_MOST) as socket:
        async with asyncio.timeout(AT_MOST):
            return str(json.loads(await socket.recv())["event"])


def _get(gateway: Gateway, path: str) -> Awaitable[httpx.Response]:
    return gateway.http.get(API + path)


async def _count_inbox(gateway: Gateway) -> int:
    async with gateway.database.begin() as connection:
        return await connection.scalar(text("select count(*) from inbox")) or 0


async def _until_accepted(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    return await _until(ask, 200)


async def _until(ask: Callable[[], Awaitable[httpx.Response]], status: int) -> httpx.Response:
    async with asyncio.timeout(2 * AT_MOST):
        while (answer := await ask()).status_code != status:  # noqa: ASYNC110 - polled, as clients do
            await asyncio.sleep(0.1)
    return answer
