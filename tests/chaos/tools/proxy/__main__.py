"""The proxy as a process: `python -m tests.chaos.tools.proxy --listen HOST:PORT --target HOST:PORT --control SOCKET`.

A place may name a network namespace: HOST:PORT@NAME. Commands come as lines of JSON over the control socket.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from pydantic import ValidationError

from tests.chaos.tools.proxy.faults import COMMAND, STATS
from tests.chaos.tools.proxy.relay import Place, Relay

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description="A TCP proxy that misbehaves when told to.")
    parser.add_argument("--listen", type=_place, required=True)
    parser.add_argument("--target", type=_place, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--wire", choices=("bytes", "amqp", "postgresql"), default="bytes")
    given = parser.parse_args()
    uvloop.run(_run(Relay(given.listen, given.target, given.wire), given.control))


async def _run(relay: Relay, control: Path) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await relay.listen()
    server = await asyncio.start_unix_server(_handler(relay), control)
    await over.wait()
    server.close()
    relay.close()


def _handler(relay: Relay) -> Handler:
    async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        try:
            writer.write(STATS.dump_json(await relay.obey(COMMAND.validate_json(line))) + b"\n")
        except ValidationError as error:
            writer.write(f"not a command: {error}".encode())
        writer.close()

    return obey


def _place(text: str) -> Place:
    address, _, namespace = text.partition("@")
    host, _, port = address.rpartition(":")
    return Place(host, int(port), namespace or None)


if __name__ == "__main__":
    main()
