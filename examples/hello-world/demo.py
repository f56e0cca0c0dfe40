"""Runs the organism of this folder embedded, sends it a greeting, and shows what happens: for `make demo`."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets
from lxml import etree
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from xml_pipeline.embedded import Place, run_embedded
from xml_pipeline.envelope.model import ENVELOPE_NS
from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.logs import configure_logging
from xml_pipeline.organism.load import load_organism
from xml_pipeline.terminal.readiness import wait_until_running
from xml_pipeline.terminal.views import answer_view, usage_view

HERE = Path(__file__).parent
PATIENCE = 60.0
MESSAGES = 4

console = Console(highlight=False, soft_wrap=True)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hello-world-") as data:
        async with asyncio.timeout(PATIENCE), running(Path(data)) as url, httpx.AsyncClient(base_url=url) as api:
            await greet(api, url)


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[str]:
    """The organism of this folder; ended in order at the end."""
    organism = load_organism(HERE / "organism.yaml")
    place = Place(host="127.0.0.1", port=free_port(), data=data, worker_processes=1)
    stop = asyncio.Event()
    organism_task = asyncio.create_task(run_embedded(organism, place, stop=stop, instance="demo"))
    ready = asyncio.create_task(wait_until_running(place.url))
    try:
        await asyncio.wait([organism_task, ready], return_when=asyncio.FIRST_COMPLETED)
        if organism_task.done():
            await organism_task
        say(f"{organism.name} runs at {place.url}, all in one process, on a PostgreSQL of its own")
        yield place.url
    finally:
        ready.cancel()
        stop.set()
        await organism_task


async def greet(api: httpx.AsyncClient, url: str) -> None:
    """Send a greeting; show the messages, the answer, the bill."""
    feed = url.replace("http://", "ws://") + "/ws/messages"
    async with websockets.connect(feed) as messages:
        await messages.send(json.dumps({"cmd": "subscribe", "filter": {}}))
        await messages.recv()
        say('organism inject greeter name="the whole wide world" --wait 30\n')
        request = api.post(
            "/api/v1/inject",
            json={"to": "greeter", "payload": {"name": "the whole wide world"}},
            headers={"Prefer": "wait=30"},
            timeout=PATIENCE,
        )
        answer = asyncio.create_task(request)
        for _ in range(MESSAGES):
            show(json.loads(await messages.recv()))
    reply = (await answer).raise_for_status().json()["reply"]
    say("the answer")
    console.print(answer_view(reply), style="bold green")
    console.print()
    say("what it cost")
    console.print(usage_view(await booked(api)))


async def booked(api: httpx.AsyncClient) -> Mapping[str, Any]:
    """The usage, as soon as the ledger has booked the one call of this greeting."""
    while True:
        usage: Mapping[str, Any] = (await api.get("/api/v1/usage")).raise_for_status().json()
        if usage["usage"]["totals"]["requestCount"]:
            return usage
        await asyncio.sleep(0.05)


def show(message: Mapping[str, Any]) -> None:
    """One envelope."""
    console.print(Text.assemble((f"{message['slotIndex']}  ", "dim"), f"{message['from']} -> {message['to']}"))
    xml = etree.tostring(envelope(message), pretty_print=True, encoding="unicode")
    console.print(Syntax(xml, "xml", theme="ansi_dark", background_color="default"))


def envelope(message: Mapping[str, Any]) -> etree._Element:
    """The message as it travelled."""
    root = etree.Element(f"{{{ENVELOPE_NS}}}message", nsmap={None: ENVELOPE_NS})
    meta = etree.SubElement(root, f"{{{ENVELOPE_NS}}}meta")
    for name, value in (("from", message["from"]), ("to", message["to"]), ("thread", message["threadId"])):
        etree.SubElement(meta, f"{{{ENVELOPE_NS}}}{name}").text = value
    payload = etree.SubElement(root, message["payloadType"], nsmap={None: ""})
    for name, value in message["payload"].items():
        etree.SubElement(payload, name).text = str(value)
    return root


def say(line: str) -> None:
    console.print(Text(line, style="dim"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    # That it is open to this machine is no news for the seconds that it runs.
    configure_logging("error", style="console")
    try:
        asyncio.run(main())
    except (XmlPipelineError, httpx.HTTPError) as error:
        sys.exit(f"demo: {error}")
    except TimeoutError:
        sys.exit("demo: it took too long")
