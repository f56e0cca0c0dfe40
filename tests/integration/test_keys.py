"""A running gateway and its keys: made, revoked, asked for; and what it checks while there are none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.gateway_support import API, LIMIT, Gateway, copied_example, running_gateway
from tests.support.keys import Key, make_key, revoke_key
from xml_pipeline.access.roles import Role
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.access.keyring import BELIEVED_FOR, Keyring
from xml_pipeline.server.access.post import KeyRequired
from xml_pipeline.server.access.visitor import Visitor
from xml_pipeline.storage import api_keys, audit
from xml_pipeline.storage.database import Database

EVERYWHERE = "0.0.0.0"  # noqa: S104
EVIL = "http://evil.example"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def gateway(database_url: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(database_url, copied_example(tmp_path)) as running:
        yield running


@pytest.fixture
async def admin(database: Database) -> Key:
    """Made before the gateway starts, where it is asked for first."""
    return await make_key(database)


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT):
        while not await probe():  # noqa: ASYNC110 - what another process sees has no event here
            await asyncio.sleep(0.02)


def socket_url(gateway: Gateway) -> str:
    return f"ws://127.0.0.1:{gateway.port}/ws"


async def refused_at_the_handshake(gateway: Gateway, headers: dict[str, str]) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(socket_url(gateway), additional_headers=headers):
            """Nobody gets here."""
    return caught.value.response.status_code, json.loads(caught.value.response.body)["code"]


class TestOpen:
    async def test_it_answers_its_own_machine(self, gateway: Gateway) -> None:
        for host in ("localhost", f"localhost:{gateway.port}", "[::1]:1", "127.0.0.1"):
            answer = await gateway.http.get(f"{API}/agents", headers={"Host": host, "Origin": f"http://{host}"})
            assert answer.status_code == 200

    async def test_it_answers_to_no_other_name(self, gateway: Gateway) -> None:
        answer = await gateway.http.get(f"{API}/agents", headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "host-not-allowed")
        assert await refused_at_the_handshake(gateway, {"Host": "evil.example"}) == (403, "host-not-allowed")

    async def test_it_answers_to_no_page_of_others(self, gateway: Gateway) -> None:
        body = {"to": "greeter", "payload": {"name": "Dan"}}
        for origin in (EVIL, "null"):
            answer = await gateway.http.post(f"{API}/inject", json=body, headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "origin-not-allowed")
            assert await refused_at_the_handshake(gateway, {"Origin": origin}) == (403, "origin-not-allowed")
        assert (await gateway.get("/threads"))["total"] == 0

    async def test_probes_are_for_everybody(self, gateway: Gateway) -> None:
        for path in ("/health", "/livez", "/readyz"):
            answer = await gateway.http.get(path, headers={"Host": "10.1.2.3:8080", "Origin": EVIL})
            assert answer.status_code == 200

    async def test_other_names_may_be_configured(self, database_url: str, tmp_path: Path) -> None:
        allowed = frozenset({"organism.lan"})
        async with running_gateway(database_url, copied_example(tmp_path), allowed_hosts=allowed) as gateway:
            headers = {"Host": "organism.lan:8080", "Origin": "https://organism.lan"}
            assert (await gateway.http.get(f"{API}/agents", headers=headers)).status_code == 200
            assert await refused_at_the_handshake(gateway, {"Origin": EVIL}) == (403, "origin-not-allowed")

    async def test_the_first_key_closes_it(self, gateway: Gateway, database: Database) -> None:
        async with connect(socket_url(gateway)) as socket:
            assert json.loads(await socket.recv())["event"] == "connected"
            key = await make_key(database)
            async with asyncio.timeout(LIMIT):
                assert await last_words(socket.recv) == ("an API key is needed from now on", 1008)
        assert (await gateway.http.get(f"{API}/agents")).json()["code"] == "key-missing"
        assert (await gateway.http.get(f"{API}/agents", headers=key.bearer)).status_code == 200

    async def test_its_document_says_that_none_is_needed_yet(self, gateway: Gateway) -> None:
        document = (await gateway.http.get("/openapi.json")).json()
        security = document["paths"]["/api/v1/usage/reset"]["post"]["security"]
        assert security == [{}, {"bearer": ["admin"]}, {"apiKey": ["admin"]}]


async def last_words(receive: Callable[[], Awaitable[str | bytes]]) -> tuple[str, int | None]:
    """What a socket says last, and the code that it is closed with."""
    said = ""
    try:
        while True:
            said = str(json.loads(await receive()).get("error", said))
    except ConnectionClosed as closed:
        return said, closed.rcvd.code if closed.rcvd else None


class TestKeys:
    async def test_a_new_key_counts_at_once(self, admin: Key, gateway: Gateway, database: Database) -> None:
        for _ in range(5):
            key = await make_key(database, Role.VIEWER)
            assert (await gateway.http.get(f"{API}/agents", headers=key.bearer)).status_code == 200

    async def test_a_revoked_key_is_refused_and_its_sockets_are_closed(
        self, admin: Key, gateway: Gateway, database: Database
    ) -> None:
        other = await make_key(database, Role.OPERATOR)
        async with (
            connect(socket_url(gateway), additional_headers=other.bearer) as socket,
            connect(socket_url(gateway), additional_headers=admin.bearer) as stays,
        ):
            await socket.recv()
            await stays.recv()
            await revoke_key(database, other)
            async with asyncio.timeout(LIMIT):
                assert await last_words(socket.recv) == ("this API key was revoked", 1008)
            answer = await gateway.http.get(f"{API}/agents", headers=other.bearer)
            assert (answer.status_code, answer.json()["code"]) == (401, "key-unknown")
            await stays.send('{"cmd": "subscribe", "events": ["error"]}')
            assert json.loads(await stays.recv())["event"] == "subscribed"

    async def test_without_a_key_in_force_it_is_locked_and_not_open(
        self, admin: Key, gateway: Gateway, database: Database
    ) -> None:
        await revoke_key(database, admin)

        async def refused() -> bool:
            return (await gateway.http.get(f"{API}/agents", headers=admin.bearer)).status_code == 401

        await until(refused)
        assert (await gateway.http.get(f"{API}/agents")).status_code == 401

    async def test_the_audit_log_knows_by_which_key(self, admin: Key, gateway: Gateway, database: Database) -> None:
        await gateway.http.post(f"{API}/agents/greeter/pause", headers=admin.bearer)
        async with database.begin() as connection:
            [entry, made] = (await audit.list_entries(connection)).items
        assert (entry.action, entry.actor) == ("pause", f"key {admin.id} (test)")
        assert (made.action, made.subject, made.detail) == (
            "key-create",
            str(admin.id),
            {"name": "test", "role": "admin"},
        )

    async def test_its_use_is_noted(self, admin: Key, gateway: Gateway, database: Database) -> None:
        await gateway.http.get(f"{API}/agents", headers=admin.bearer)

        async def noted() -> bool:
            async with database.begin() as connection:
                [key] = await api_keys.list_keys(connection)
            return key.last_used_at is not None

        await until(noted)

    async def test_host_and_origin_make_no_difference_with_a_key(self, admin: Key, gateway: Gateway) -> None:
        headers = {"Host": "organism.example", "Origin": EVIL, **admin.bearer}
        assert (await gateway.http.get(f"{API}/agents", headers=headers)).status_code == 200


class TestExposed:
    async def test_without_a_key_nobody_listens(self, database_url: str, tmp_path: Path) -> None:
        with pytest.raises(KeyRequired, match=r"api-key-required.*organism key create"):
            async with running_gateway(database_url, copied_example(tmp_path), host=EVERYWHERE):
                """Nobody gets here."""

    async def test_nor_with_one_that_is_revoked(
        self, admin: Key, database: Database, database_url: str, tmp_path: Path
    ) -> None:
        await revoke_key(database, admin)
        with pytest.raises(KeyRequired):
            async with running_gateway(database_url, copied_example(tmp_path), host="::"):
                """Nobody gets here."""

    async def test_with_a_key_it_listens_and_asks_for_it(self, admin: Key, database_url: str, tmp_path: Path) -> None:
        async with running_gateway(database_url, copied_example(tmp_path), host=EVERYWHERE) as gateway:
            assert (await gateway.http.get(f"{API}/agents")).status_code == 401
            assert (await gateway.http.get(f"{API}/agents", headers=admin.bearer)).status_code == 200


class TestWithoutTheDatabase:
    """What a keyring believes while it cannot be read."""

    async def test_keys_are_believed_for_a_while(self, database: Database, admin: Key) -> None:
        now = 0.0
        keyring = Keyring(database, clock=lambda: now)
        guard = Guard(keyring, exposed=False)
        await keyring.read()
        stay = guard.enter(await guard.admit([(b"x-api-key", admin.secret.encode())], "agents") or Visitor())
        gone = Database.connect("postgresql://postgres@127.0.0.1:9/nothing")
        keyring._db = gone.within(1.0)
        reading = asyncio.create_task(keyring.run())
        try:
            now = BELIEVED_FOR
            assert await keyring.find(admin.secret.encode()) is not None
            with pytest.raises(DatabaseUnavailable):
                await keyring.find(b"xp_unknown")
            assert not stay.ended.is_set()
            now = BELIEVED_FOR + 0.1
            with pytest.raises(DatabaseUnavailable):
                await keyring.find(admin.secret.encode())
            async with asyncio.timeout(LIMIT):
                await stay.ended.wait()
            assert stay.unsure
            keyring._db = database
            assert await keyring.find(admin.secret.encode()) is not None
        finally:
            reading.cancel()
            await gone.close()

    async def test_an_open_gateway_stays_open(self, database: Database) -> None:
        now = 0.0
        keyring = Keyring(database, clock=lambda: now)
        guard = Guard(keyring, exposed=False)
        await keyring.read()
        now = 2 * BELIEVED_FOR
        assert await guard.admit([(b"host", b"localhost")], "reset") == Visitor()

    async def test_unknown_keys_share_a_reading(self, database: Database, admin: Key) -> None:
        readings = 0
        keyring = Keyring(database)
        reading = asyncio.create_task(keyring.run())

        def count() -> None:
            nonlocal readings
            readings += 1

        keyring.on_reading(count)
        try:
            found = await asyncio.gather(*(keyring.find(b"xp_%d" % number) for number in range(500)))
        finally:
            reading.cancel()
        assert set(found) == {None}
        assert readings <= 3


async def test_a_key_in_no_query(admin: Key, gateway: Gateway) -> None:
    """What stands in a URL is in logs and histories."""
    async with httpx.AsyncClient(base_url=gateway.http.base_url) as http:
        for name in ("key", "api_key", "access_token", "token"):
            assert (await http.get(f"{API}/agents", params={name: admin.secret})).status_code == 401


async def test_a_gateway_whose_pool_is_used_up_still_refuses_a_revoked_key(
    admin: Key, gateway: Gateway, database: Database
) -> None:
    """The ten connections of its pool wait for a lock that somebody holds."""
    other = await make_key(database)
    assert (await gateway.http.get(f"{API}/agents", headers=other.bearer)).status_code == 200

    async def refused() -> bool:
        return (await gateway.http.get(f"{API}/capabilities", headers=other.bearer)).status_code == 401

    async with httpx.AsyncClient(base_url=gateway.http.base_url, timeout=LIMIT) as busy:
        async with database.begin() as holder:
            await holder.execute(text("lock table messages"))
            waiting = [asyncio.create_task(busy.get(f"{API}/messages", headers=admin.bearer)) for _ in range(12)]
            await until(lambda: _wait_for_locks(database, 10))
            await revoke_key(database, other)
            await until(refused)
            assert not any(task.done() and task.result().status_code == 200 for task in waiting)
        await asyncio.gather(*waiting)


async def _wait_for_locks(database: Database, count: int) -> bool:
    statement = "select count(*) from pg_locks l join pg_database d on d.oid = l.database where not granted"
    async with database.begin() as connection:
        found = await connection.scalar(text(f"{statement} and d.datname = current_database()"))
    return int(found or 0) >= count
