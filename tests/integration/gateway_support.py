"""A gateway alone: real database, bus in memory, and no other service."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.organism.load import load_organism
from xml_pipeline.server.gateway import run_gateway
from xml_pipeline.storage.database import Database

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "hello-world"
API = "/api/v1"
LIMIT = 15.0


@dataclass
class Gateway:
    """One running gateway and what is behind it."""

    http: httpx.AsyncClient
    database: Database
    broker: MemoryBroker
    file: Path
    port: int
    task: asyncio.Task[None]

    async def get(self, path: str, **parameters: Any) -> Any:
        answer = await self.http.get(API + path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def inject(self, name: str = "Dan", *, thread: str | None = None, **headers: str) -> httpx.Response:
        body = {"to": "greeter", "payload": {"name": name}, **({"threadId": thread} if thread else {})}
        return await self.http.post(f"{API}/inject", json=body, headers=headers)


def copied_example(folder: Path) -> Path:
    """An example whose file may be changed."""
    target = folder / "organism"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return target / "organism.yaml"


@asynccontextmanager
async def running_gateway(
    database_url: str,
    file: Path,
    *,
    broker: MemoryBroker | None = None,
    host: str = "127.0.0.1",
    allowed_hosts: frozenset[str] = frozenset(),
) -> AsyncIterator[Gateway]:
    """Start a gateway on a free port of a host; it is asked to stop at the end, and must."""
    broker = broker or MemoryBroker()
    bus = broker.connect()
    database = Database.connect(database_url)
    stop, port = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run_gateway(
            bus,
            database,
            load_organism(file),
            stop=stop,
            instance="test",
            host=host,
            port=0,
            on_listening=port.set_result,
            allowed_hosts=allowed_hosts,
        )
    )
    try:
        await asyncio.wait([task, port], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.result()}", timeout=LIMIT) as http:
            yield Gateway(http, database, broker, file, port.result(), task)
    finally:
        stop.set()
        async with asyncio.timeout(LIMIT):
            await asyncio.wait([task])
        await bus.close()
        await database.close()
