"""Every operation of the OpenAPI document and every WebSocket command, tried by everybody there is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIWebSocketRoute
from starlette.routing import BaseRoute
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.contract.looking import hello_pump
from tests.support.keys import Key, make_key, revoke_key
from xml_pipeline.access.roles import Role
from xml_pipeline.quiet_server import bind
from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.access.keyring import Keyring
from xml_pipeline.server.access.table import ROLES, UnnamedOperation, role_of
from xml_pipeline.server.api import ProblemRoute
from xml_pipeline.server.app import create_app
from xml_pipeline.server.commands import AllCommands, Endpoint, MessageCommands
from xml_pipeline.server.http_server import HttpServer
from xml_pipeline.server.state import ServerState
from xml_pipeline.storage.database import Database

VISITORS = ("no key", "unknown", "revoked", *Role)
# What the documentation promises, told once more: what is not named here and only reads is for viewers.
PROBES = {"GET /health", "GET /livez", "GET /readyz"}
OPERATORS = {
    "POST /api/v1/inject",
    "POST /api/v1/agents/{name}/pause",
    "POST /api/v1/agents/{name}/resume",
    "POST /api/v1/threads/{thread_id}/kill",
    "POST /api/v1/dead-letters/{letter_id}/redrive",
}
ADMINS = {
    "POST /api/v1/organism/stop",
    "POST /api/v1/organism/reload",
    "POST /api/v1/usage/threads/{thread_id}/top-up",
    "POST /api/v1/usage/reset",
    "DELETE /api/v1/dead-letters/{letter_id}",
}
COMMANDS = {"/ws": {"subscribe": Role.VIEWER, "inject": Role.OPERATOR}, "/ws/messages": {"subscribe": Role.VIEWER}}
# Pages that tell nothing of the organism.
STATIC = {"/openapi.json", "/docs", "/docs/oauth2-redirect"}


@dataclass
class Served:
    """A guarded app behind a real server, a database with keys beside it."""

    app: FastAPI
    http: httpx.AsyncClient
    url: str
    keys: Mapping[str, Key]

    def headers(self, visitor: str) -> dict[str, str]:
        if visitor == "no key":
            return {}
        return self.keys[visitor].bearer if visitor != "unknown" else {"X-API-Key": "xp_unknown"}

    async def operations(self) -> Mapping[str, Mapping[str, Any]]:
        """Each operation of the document, by method and path."""
        document = (await self.http.get("/openapi.json")).json()
        return {
            f"{method.upper()} {path}": operation
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        }

    async def status(self, label: str, visitor: str) -> httpx.Response:
        method, _, path = label.partition(" ")
        for name in ("{name}", "{agent_id}"):
            path = path.replace(name, "greeter")
        path = path.replace("{model}", "some/model").replace("{thread_id}", str(uuid4()))
        path = path.replace("{letter_id}", str(uuid4()))
        assert "{" not in path, f"give {path} a value"
        content = b"{}" if method == "POST" else None
        headers = {"content-type": "application/json", **self.headers(visitor)}
        return await self.http.request(method, path, headers=headers, content=content)

    @asynccontextmanager
    async def socket(self, path: str, visitor: str) -> AsyncIterator[ClientConnection]:
        url = self.url.replace("http", "ws", 1) + path
        async with connect(url, additional_headers=self.headers(visitor)) as socket:
            yield socket


@pytest.fixture
async def served(database_url: str) -> AsyncIterator[Served]:
    database = Database.connect(database_url)
    keys = {role.value: await make_key(database, role) for role in Role}
    keys["revoked"] = await make_key(database)
    await revoke_key(database, keys["revoked"])
    keyring = Keyring(database)
    await keyring.read()
    app = create_app(hello_pump(), guard=Guard(keyring, exposed=False))
    listening = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = HttpServer(app, listening, max_message_bytes=10_000)
    async with asyncio.TaskGroup() as group:
        reading, serving = group.create_task(keyring.run()), group.create_task(server.serve())
        await server.wait_started()
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            yield Served(app, http, url, keys)
        server.stop()
        await serving
        reading.cancel()
    await database.close()


def needed(label: str) -> Role | None:
    if label in PROBES:
        return None
    if label in OPERATORS | ADMINS:
        return Role.ADMIN if label in ADMINS else Role.OPERATOR
    assert label.startswith("GET "), f"decide who may {label}, here and in the table"
    return Role.VIEWER


def expected(visitor: str, role: Role | None) -> tuple[int, str] | None:
    """The status and code of the refusal; None for who is let in."""
    if role is None:
        return None
    if visitor not in set(Role):
        return 401, "key-missing" if visitor == "no key" else "key-unknown"
    return None if Role(visitor).includes(role) else (403, "role-too-small")


@pytest.mark.parametrize("visitor", VISITORS)
async def test_every_operation_of_the_document(served: Served, visitor: str) -> None:
    for label in await served.operations():
        answer = await served.status(label, visitor)
        refused = (answer.status_code, answer.json()["code"]) if answer.status_code in (401, 403) else None
        assert refused == expected(visitor, needed(label)), f"{label} by {visitor}: {answer.text}"
        if refused:
            assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)


@pytest.mark.parametrize("visitor", VISITORS)
async def test_every_websocket_and_command(served: Served, visitor: str) -> None:
    for path in websockets_of(served.app):
        refused = expected(visitor, Role.VIEWER)
        if refused:
            with pytest.raises(InvalidStatus) as caught:
                async with served.socket(path, visitor):
                    """Nobody gets here."""
            response = caught.value.response
            assert (response.status_code, json.loads(response.body)["code"]) == refused
            assert response.headers["www-authenticate"] == "Bearer"
            continue
        async with served.socket(path, visitor) as socket:
            for command, role in COMMANDS[path].items():
                assert await is_refused(socket, command) is not Role(visitor).includes(role), f"{path} {command}"


async def is_refused(socket: ClientConnection, command: str) -> bool:
    """Whether the answer is that the role is too small: the connection stays open."""
    await socket.send(json.dumps({"cmd": command, "to": "greeter", "payload": {"name": "Dan"}}))
    while True:
        event = json.loads(await socket.recv())
        if event.get("event") in ("subscribed", "injected"):
            return False
        if event.get("event") == "error":
            assert event.keys() == {"event", "error"}
            assert "needs a key with the role operator" in event["error"]
            return True


async def test_the_document_names_the_role_of_each_operation(served: Served) -> None:
    for label, operation in (await served.operations()).items():
        role = needed(label)
        schemes = [{"bearer": [role]}, {"apiKey": [role]}] if role else []
        assert (label, operation["security"]) == (label, schemes)
        assert ({"401", "403"} <= operation["responses"].keys()) is (role is not None)
        assert role_of(operation["operationId"]) is role
    document = (await served.http.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}


async def test_nothing_is_served_beside_the_document(served: Served) -> None:
    documented = {(label.partition(" ")[0], label.partition(" ")[2]) for label in await served.operations()}
    routes = list(routes_of(served.app))
    ours = [route for route in routes if isinstance(route, ProblemRoute)]
    others = [route for route in routes if not isinstance(route, (ProblemRoute, APIWebSocketRoute))]
    assert {(method, route.path_format) for route in ours for method in route.methods or ()} == documented
    assert {getattr(route, "path", None) for route in others} == STATIC


async def test_the_table_names_what_there_is_and_nothing_else(served: Served) -> None:
    operations = {operation["operationId"] for operation in (await served.operations()).values()}
    endpoints: tuple[type[Endpoint], ...] = (AllCommands, MessageCommands)
    commands = {name for endpoint in endpoints for name in endpoint.operations()}
    assert {endpoint.path for endpoint in endpoints} == set(websockets_of(served.app))
    assert {endpoint.path: set(endpoint.commands) for endpoint in endpoints} == {k: set(v) for k, v in COMMANDS.items()}
    assert operations | commands == set(ROLES)


def test_an_operation_that_the_table_does_not_name_cannot_be_served() -> None:
    router = APIRouter(route_class=ProblemRoute)

    async def burn_it_all() -> None:
        """Nobody decided who may."""

    with pytest.raises(UnnamedOperation, match="burn_it_all"):
        router.get("/burn")(burn_it_all)


def test_nor_can_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    unnamed = {**AllCommands.commands, "burn": "_inject"}
    monkeypatch.setattr(AllCommands, "commands", unnamed)
    with pytest.raises(UnnamedOperation, match="/ws burn"):
        create_app(hello_pump())


async def test_both_headers_and_no_contradiction(served: Served) -> None:
    admin, viewer = served.keys["admin"], served.keys["viewer"]
    stop = "/api/v1/usage/reset"
    assert (await served.http.post(stop, headers={"X-API-Key": admin.secret})).status_code == 200
    assert (await served.http.post(stop, headers={"X-API-Key": admin.secret, **admin.bearer})).status_code == 200
    assert (await served.http.post(stop, headers={"X-API-Key": admin.secret, **viewer.bearer})).status_code == 401


def websockets_of(app: FastAPI) -> list[str]:
    found = [route.path for route in routes_of(app) if isinstance(route, APIWebSocketRoute)]
    assert found
    return found


def routes_of(app: FastAPI | APIRouter) -> Iterator[BaseRoute]:
    """All routes, those of included routers among them, however FastAPI keeps these."""
    for route in app.routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from routes_of(included)


async def test_a_body_is_not_read_for_who_may_not_send_it(served: Served) -> None:
    answer = await served.http.post("/api/v1/inject", content=b"{", headers=served.headers("viewer"))
    assert answer.json()["code"] == "role-too-small"


def test_without_a_guard_the_document_asks_for_nothing() -> None:
    document: Mapping[str, Any] = create_app(state=ServerState(hello_pump())).openapi()
    assert "securitySchemes" not in document["components"]
    assert not any("security" in operation for path in document["paths"].values() for operation in path.values())
