"""One direction of a connection: bytes go on in order, late while there is a delay, not at all while they are held."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum

from tests.chaos.tools.proxy.faults import Blackhole, Delay
from tests.chaos.tools.proxy.traps import Traps

_ROOM = 1 << 20  # bytes that wait here before the source has to wait
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds


class End(Enum):
    """How a source ended."""

    CLOSED = "closed"
    RESET = "reset"


class Pipe:
    """From a source to a sink, which may come later. What departs, `passed` may change first."""

    def __init__(self, traps: Traps, depart: Callable[[bytes], bytes], ended: Callable[[End], None]) -> None:
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self._traps = traps
        self._depart = depart
        self._ended = ended
        self._waiting: deque[tuple[float, bytes | End]] = deque()
        self._size = 0
        self._sink_full = False
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, piece: bytes | End) -> None:
        """Take what the source sent, or that it has ended."""
        self._waiting.append((asyncio.get_running_loop().time(), piece))
        self._size += _size(piece)
        self.move()

    def sink_is_full(self, full: bool) -> None:
        """Let the source wait while the sink's buffer is full."""
        self._sink_full = full
        self._gate()

    def move(self) -> None:
        """Send on what may go; to be called whenever another fault holds."""
        while self._waiting and self._may_depart():
            _, piece = self._waiting.popleft()
            self._size -= _size(piece)
            self._send(piece)
        self._set_timer()
        self._gate()

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self._size = 0
        self._set_timer()

    @property
    def _held(self) -> bool:
        return isinstance(self._traps.fault, Blackhole)

    def _due(self) -> float:
        delay = self._traps.fault.seconds if isinstance(self._traps.fault, Delay) else 0.0
        return self._waiting[0][0] + delay

    def _may_depart(self) -> bool:
        if self._held or self.sink is None:
            return False
        return self._due() <= asyncio.get_running_loop().time()

    def _send(self, piece: bytes | End) -> None:
        if isinstance(piece, End):
            self._ended(piece)
        elif self.sink is not None and (data := self._depart(piece)) and not self.sink.is_closing():
            self.sink.write(data)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting and not self._held and self.sink is not None:
            self._timer = asyncio.get_running_loop().call_at(self._due(), self.move)

    def _gate(self) -> None:
        """Held bytes stay with the kernel of their sender, as on a network that does not acknowledge them."""
        pause = self._held or self._sink_full or self._size > _ROOM
        if self.source is None or self.source.is_closing() or pause == self._paused:
            return
        self._paused = pause
        if pause:
            self.source.pause_reading()
        else:
            self.source.resume_reading()


def reset(transport: asyncio.Transport) -> None:
    """Close with a RST; what was not sent yet is dropped."""
    if not transport.is_closing():
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


def _size(piece: bytes | End) -> int:
    return len(piece) if isinstance(piece, bytes) else 0
