"""A webhook's receiver: takes what is posted, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One answer: its status; none at all while `hang`; `drop` closes the connection; `endless` never ends its body."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    endless: bool = False


@dataclass(frozen=True)
class Posted:
    """What was posted."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """By which a receiver knows doubles."""
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Where it listens and what it was sent. The last of the steps goes on."""

    url: str
    steps: list[Step]
    posted: list[Posted] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, each on a connection of its own."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.posted.append(Posted(line, headers, body))
            await self._answer(self.steps.pop(0) if len(self.steps) > 1 else self.steps[0], reader, writer)
        finally:
            writer.close()

    async def _answer(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if step.drop:
            return
        if step.hang:
            await reader.read()
            return
        length = "1000000" if step.endless else "0"
        headers = {"Content-Length": length, "Connection": "close", **step.headers}
        lines = [f"HTTP/1.1 {step.status} So", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        if step.endless:
            await reader.read()


@asynccontextmanager
async def receiving(*steps: Step) -> AsyncIterator[Receiver]:
    """Listen while inside, and answer by these steps."""
    receiver = Receiver("", list(steps) or [Step()])
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    receiver.url = f"http://{host}:{port}/hook?token=hush"
    try:
        yield receiver
    finally:
        server.close()


def ids(posted: Sequence[Posted]) -> list[str]:
    """Of each that was posted."""
    return [each.id for each in posted]
