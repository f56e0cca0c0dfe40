"""What a broker says, AMQP 0-9-1: without its confirms while those are to vanish."""

from __future__ import annotations

from collections.abc import Iterator

from tests.chaos.tools.proxy.traps import Traps
from xml_pipeline.message_bus.rabbit.frames import ACK, FRAME, FRAME_OVERHEAD, METHOD, METHOD_ID, NACK


class AmqpFilter:
    """Of one connection. Only whole frames pass, so that the place in the stream is known whenever a fault begins."""

    def __init__(self, traps: Traps) -> None:
        self._traps = traps
        self._rest = b""

    def from_client(self, data: bytes) -> tuple[bytes, bool]:
        """What passes, and whether the connection is to be reset: a client's own acks are none of ours."""
        return data, False

    def from_server(self, data: bytes) -> tuple[bytes, bool]:
        """What passes, and whether the connection is to be reset."""
        data = self._rest + data
        spans = list(_frames(data))
        end = spans[-1][1] if spans else 0
        self._rest = data[end:]
        if not self._traps.swallows_confirms:
            return data[:end], False
        return b"".join(data[start:stop] for start, stop in spans if not self._vanishes(data, start)), False

    def _vanishes(self, data: bytes, start: int) -> bool:
        # From a broker, basic.ack and basic.nack are always about a publish.
        kind, _, size = FRAME.unpack_from(data, start)
        if kind != METHOD or size < METHOD_ID.size:
            return False
        if METHOD_ID.unpack_from(data, start + FRAME.size) not in (ACK, NACK):
            return False
        self._traps.confirm_swallowed()
        return True


def _frames(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each whole frame."""
    start = 0
    while len(data) - start >= FRAME.size:
        stop = start + FRAME.unpack_from(data, start)[2] + FRAME_OVERHEAD
        if stop > len(data):
            return
        yield start, stop
        start = stop
