"""An endpoint that speaks as much of OpenAI's chat completions as the tests need, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One answer: `body` as it is, or as JSON; no answer at all while `hang`; `drop` closes the connection."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False


def good(text: str = "hello", prompt: int = 12, completion: int = 3) -> Step:
    """A usable answer."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return Step(body={"model": "served-model", "choices": [{"message": {"content": text}}], "usage": usage})


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
    headers = {"Content-Length": str(len(body)), "Connection": "close", **step.headers}
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
