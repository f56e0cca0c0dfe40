"""An endpoint that speaks as much of OpenAI's chat completions as the tests need, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One answer: `body` as it is, or as JSON; no answer at all while `hang`; `drop` closes the connection.

    `missing`: bytes that the head promises and that never come.
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    missing: int = 0


def good(text: str = "hello", prompt: int = 12, completion: int = 3) -> Step:
    """A usable answer."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return Step(body={"model": "served-model", "choices": [{"message": {"content": text}}], "usage": usage})


def streamed(*events: object, end: bool = True, missing: int = 0) -> Step:
    """An answer in events, each as JSON; bytes are taken as they are."""
    written = [event if isinstance(event, bytes) else f"data: {json.dumps(event)}\n\n".encode() for event in events]
    body = b"".join([*written, b"data: [DONE]\n\n" if end else b""])
    return Step(body=body, headers={"Content-Type": "text/event-stream; charset=utf-8"}, missing=missing)


def piece(text: str | None = None, finish: str | None = None, **more: object) -> dict[str, object]:
    """One event of a stream."""
    delta = {} if text is None else {"content": text}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"model": "served-model", "choices": choices, "usage": None, **more}


@dataclass
class StubLlm:
    """Where it listens, and what it was asked."""

    url: str
    steps: list[Step]
    requests: list[tuple[Mapping[str, str], dict[str, object]]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, each on a connection of its own."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in head.split("\r\n")[1:])}
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            self.requests.append((headers, body))
            step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
            if step.hang:
                await reader.read()
            elif not step.drop:
                writer.write(_response(step))
                await writer.drain()
        finally:
            writer.close()


def _response(step: Step) -> bytes:
    body = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
    headers = {"Content-Length": str(len(body) + step.missing), "Connection": "close", **step.headers}
    lines = [f"HTTP/1.1 {step.status} Whatever", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def stub_llm(steps: Sequence[Step]) -> AsyncIterator[StubLlm]:
    """A stub that gives these answers in turn, the last one again and again."""
    stub = StubLlm("", list(steps))
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    stub.url = f"http://{host}:{port}/v1"
    try:
        yield stub
    finally:
        server.close()
