"""The ceiling of a broker: frames made once and sent in bulk over a blocking socket, with no care for anything else."""

from __future__ import annotations

import socket
import struct
from urllib.parse import unquote, urlsplit

from pamqp import body, commands, frame, header
from pamqp.base import Frame

_WINDOW = 2000
_BULK = 200
_DELIVER = struct.pack(">HH", 60, 60)
_ACK = struct.pack(">HH", 60, 80)


class RawClient:
    """One connection, one channel."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._buffer = b""
        self._socket = socket.create_connection((parts.hostname or "localhost", parts.port or 5672))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._read_frame()
        login = f"\x00{unquote(parts.username or 'guest')}\x00{unquote(parts.password or 'guest')}"
        tune = self._ask(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), channel=0)
        assert isinstance(tune, commands.Connection.Tune)
        self._send(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0), channel=0)
        self._ask(commands.Connection.Open(unquote(parts.path[1:]) or "/"), channel=0)
        self._ask(commands.Channel.Open())

    def publish(self, queue: str, payload: bytes, count: int) -> None:
        """Publish persistent messages and wait for all confirms, `_WINDOW` in flight at most."""
        self._ask(commands.Confirm.Select())
        properties = commands.Basic.Properties(delivery_mode=2)
        one = b"".join(
            frame.marshal(part, 1)
            for part in (
                commands.Basic.Publish(routing_key=queue),
                header.ContentHeader(body_size=len(payload), properties=properties),
                body.ContentBody(payload),
            )
        )
        sent = confirmed = 0
        while confirmed < count:
            while sent < count and sent - confirmed <= _WINDOW - _BULK:
                self._socket.sendall(one * min(_BULK, count - sent))
                sent += min(_BULK, count - sent)
            confirmed += self._read_confirms(confirmed)

    def consume(self, queue: str, count: int) -> None:
        """Take messages, with one ack for each bulk."""
        self._ask(commands.Basic.Qos(prefetch_count=2 * _BULK))
        self._ask(commands.Basic.Consume(queue=queue))
        taken = acked = 0
        while taken < count:
            taken += sum(payload.startswith(_DELIVER) for payload in self._read_payloads())
            if taken - acked >= _BULK or taken == count:
                self._send(commands.Basic.Ack(delivery_tag=taken, multiple=True))
                acked = taken

    def close(self) -> None:
        """Close in order: what was sent last has arrived then."""
        self._ask(commands.Connection.Close(200, "", 0, 0), channel=0)
        self._socket.close()

    def _read_confirms(self, confirmed: int) -> int:
        """How many more are confirmed; the broker confirms a queue's publishes of one channel in order."""
        highest = confirmed
        for payload in self._read_payloads():
            if payload.startswith(_ACK):
                highest = max(highest, struct.unpack_from(">Q", payload, 4)[0])
        return highest - confirmed

    def _ask(self, method: Frame, channel: int = 1) -> object:
        self._send(method, channel)
        return self._read_frame()

    def _send(self, method: Frame, channel: int = 1) -> None:
        self._socket.sendall(frame.marshal(method, channel))

    def _read_frame(self) -> object:
        while True:
            if len(self._buffer) >= 8:
                size = struct.unpack_from(">I", self._buffer, 3)[0] + 8
                if len(self._buffer) >= size:
                    _, _, found = frame.unmarshal(self._buffer[:size])
                    self._buffer = self._buffer[size:]
                    return found
            self._receive()

    def _read_payloads(self) -> list[bytes]:
        self._receive()
        payloads, position = [], 0
        while len(self._buffer) - position >= 8:
            end = position + 8 + struct.unpack_from(">I", self._buffer, position + 3)[0]
            if end > len(self._buffer):
                break
            payloads.append(self._buffer[position + 7 : position + 40])
            position = end
        self._buffer = self._buffer[position:]
        return payloads

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self._buffer += data
