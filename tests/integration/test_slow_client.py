"""A WebSocket client that does not keep up is dropped, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.contract.looking import hello_pump
from xml_pipeline.quiet_server import bind
from xml_pipeline.server.app import create_app
from xml_pipeline.server.http_server import HttpServer
from xml_pipeline.server.state import ServerState

LIMIT = 30.0
QUEUE_LIMIT = 50
LARGE = "x" * 20_000


@pytest.fixture
async def served() -> AsyncIterator[tuple[ServerState, str]]:
    state = ServerState(hello_pump())
    state.hub.queue_limit = QUEUE_LIMIT
    listening = bind("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = HttpServer(create_app(state=state), listening, max_message_bytes=1_000_000)
    task = asyncio.create_task(server.serve())
    await server.wait_started()
    yield state, f"ws://127.0.0.1:{port}/ws"
    server.stop()
    async with asyncio.timeout(LIMIT):
        await task


async def test_the_slow_is_dropped_and_the_fast_gets_all(served: tuple[ServerState, str]) -> None:
    state, url = served
    async with connect(url, max_queue=1) as slow, connect(url, max_queue=None) as fast:
        for client in (slow, fast):
            await client.send(json.dumps({"cmd": "subscribe", "events": ["message"]}))
            await _read_until(client, "subscribed")
        async with asyncio.timeout(LIMIT):
            seen, number = [], 0
            # The fast one reads each message before the next: only the slow one's queue can fill.
            while state.hub.count == 2:
                await _record(state, number)
                seen.append((await _read_until(fast, "message"))["message"]["payload"]["n"])
                number += 1
            assert seen == list(range(number))
            assert number > QUEUE_LIMIT
            assert await _last_words(slow) in ("lagged", "message")
            await _record(state, number)
            assert (await _read_until(fast, "message"))["message"]["payload"]["n"] == number


async def test_one_that_reads_again_is_told_why(served: tuple[ServerState, str]) -> None:
    state, url = served
    async with connect(url, max_queue=None) as client:
        await _read_until(client, "connected")
        # All in one step of the event loop: no client can keep up with that.
        for number in range(2 * QUEUE_LIMIT):
            state.note_message("t", "api", "greeter", "x", {"n": number})
        async with asyncio.timeout(LIMIT):
            assert await _last_words(client) == "lagged"
        assert client.close_code == 1013


async def _record(state: ServerState, number: int) -> None:
    await state.record_message(
        thread_id="t", from_id="api", to_id="greeter", payload_type="x", payload={"n": number, "x": LARGE}
    )


async def _read_until(client: ClientConnection, event: str) -> dict[str, Any]:
    while True:
        told: dict[str, Any] = json.loads(await client.recv())
        if told["event"] == event:
            return told


async def _last_words(client: ClientConnection) -> str | None:
    """The last event before the connection ended."""
    last = None
    try:
        async for text in client:
            last = str(json.loads(text)["event"])
    except ConnectionClosed:
        return last
    return last


async def test_one_that_takes_nothing_for_too_long_is_cut_off() -> None:
    state = ServerState(hello_pump())
    for number in range(100):
        state.note_message("t", "api", "greeter", "x", {"n": number, "x": 10 * LARGE})
    listening = bind("127.0.0.1", 0, stalled_after=1.0)
    server = HttpServer(create_app(state=state), listening, max_message_bytes=1_000_000)
    task = asyncio.create_task(server.serve())
    await server.wait_started()
    with socket.create_connection(listening.getsockname()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /api/v1/messages?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n")
        # It never reads: what the server still holds for it goes when the kernel gives the connection up.
        async with asyncio.timeout(LIMIT):
            while not server._server.server_state.connections:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.05)
            while server._server.server_state.connections:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.05)
    server.stop()
    async with asyncio.timeout(LIMIT):
        await task
