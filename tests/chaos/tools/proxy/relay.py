"""The proxy itself: listens, keeps its connections, and does what it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.tools.proxy.connection import Connection, make_filter
from tests.chaos.tools.proxy.faults import (
    Command,
    Cut,
    Fault,
    PassThrough,
    Refuse,
    Report,
    Stats,
    SwallowConfirms,
    Wire,
)
from tests.chaos.tools.proxy.sockets import make_socket
from tests.chaos.tools.proxy.traps import Traps

_BACKLOG = 1024
# As PostgreSQL is told to do it: a client whose network is gone is given up after 25 seconds, and the server told.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}


@dataclass(frozen=True, slots=True)
class Place:
    """Host and port, in a network namespace named by `ip netns` or in the proxy's own."""

    host: str
    port: int
    namespace: str | None = None


class Relay:
    """Passes bytes between the clients at one place and the server at another."""

    def __init__(self, listen: Place, target: Place, wire: Wire) -> None:
        self._target = target
        self._wire = wire
        self._traps = Traps()
        self._connections: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._place = listen
        # Bound and never listening: the port stays ours while connections are refused.
        self._reserved = self._bind()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Take connections."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._accept, sock=self._bind(), backlog=_BACKLOG)

    async def obey(self, command: Command) -> Stats:
        """Do what it says; by the answer, it is done."""
        if isinstance(command, Cut):
            self._reset_all()
        elif not isinstance(command, Report):
            await self._set(command)
        self._traps.stats.open_connections = len(self._connections)
        return self._traps.stats

    def close(self) -> None:
        """Reset all connections and let the port go."""
        self._stop_listening()
        self._reset_all()
        self._reserved.close()

    async def _set(self, fault: Fault) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._traps.set(fault)
        if isinstance(fault, Refuse):
            self._stop_listening()
        else:
            await self.listen()
        if isinstance(fault, SwallowConfirms) and fault.seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(fault.seconds, self._confirms_are_over)
        for connection in list(self._connections):
            connection.move()

    def _accept(self) -> asyncio.Protocol:
        self._traps.stats.connections += 1
        connection = Connection(
            self._traps,
            make_filter(self._wire, self._traps),
            self._connect,
            passed=self._look,
            gone=lambda: self._connections.discard(connection),
        )
        self._connections.add(connection)
        return connection.client_end()

    async def _connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        way = make_socket(self._target.namespace)
        try:
            await loop.sock_connect(way, (self._target.host, self._target.port))
        except BaseException:
            way.close()
            raise
        await loop.create_connection(protocol, sock=way)

    def _look(self) -> None:
        if self._traps.enough_confirms:
            self._confirms_are_over()

    def _confirms_are_over(self) -> None:
        self._reset_all()
        self._traps.set(PassThrough())

    def _reset_all(self) -> None:
        for connection in list(self._connections):
            connection.reset()

    def _bind(self) -> socket.socket:
        bound = make_socket(self._place.namespace)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            bound.setsockopt(socket.IPPROTO_TCP, option, value)
        bound.bind((self._place.host, self._place.port))
        return bound

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
