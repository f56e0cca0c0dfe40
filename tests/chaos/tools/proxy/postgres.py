"""PostgreSQL's protocol, version 3: finds the COMMITs of a client, and the server's answers to them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from struct import Struct

from tests.chaos.tools.proxy.traps import Traps

_INTEGER = Struct(">I")
_ASKS_FOR_ENCRYPTION = (80877103, 80877104)  # TLS, GSSAPI: a server says no with one byte
_COMMIT = re.compile(rb"(?:^|;)\s*COMMIT\b(?!\s+PREPARED)", re.IGNORECASE)
# CommandComplete of a COMMIT, which is a ROLLBACK when the transaction had failed; ErrorResponse.
_TAGS = (b"COMMIT", b"ROLLBACK")


class EncryptedError(Exception):
    """The server agreed to encrypt: nothing can be read between it and the client; use sslmode=disable."""


class PostgresFilter:
    """Of one connection. Only whole messages pass, so that a COMMIT passes or stays away as a whole."""

    def __init__(self, traps: Traps) -> None:
        self._traps = traps
        self._client = _ClientStream()
        self._server = _ServerStream()
        self._commits = _Commits()
        self._swallowing = False

    def from_client(self, data: bytes) -> tuple[bytes, bool]:
        """What passes, and whether the connection is to be reset."""
        passed: list[bytes] = []
        for message in self._client.take(data):
            if self._commits.has(message):
                fate = self._traps.fate_of_commit()
                if fate == "before":
                    return b"".join(passed), True
                self._swallowing |= fate == "after"
            passed.append(message)
        self._server.expect_bytes(self._client.asked_for_encryption())
        return b"".join(passed), False

    def from_server(self, data: bytes) -> tuple[bytes, bool]:
        """What passes, and whether the connection is to be reset: by then, a COMMIT has been done."""
        passed = []
        for message in self._server.take(data):
            if not self._swallowing:
                passed.append(message)
            elif _answers_a_commit(message):
                self._traps.commit_swallowed()
                return b"".join(passed), True
        return b"".join(passed), False


class _ClientStream:
    """Cuts a client's bytes into messages; those before the session's start have no type."""

    def __init__(self) -> None:
        self._rest = b""
        self._starting = True
        self._asked = 0

    def take(self, data: bytes) -> Iterator[bytes]:
        start, data = 0, self._rest + data
        while (message := _first(data, typed=not self._starting, start=start)) is not None:
            start += len(message)
            if self._starting:
                self._read_start(message)
            yield message
        self._rest = data[start:]

    def asked_for_encryption(self) -> int:
        """How often since this was last asked."""
        asked, self._asked = self._asked, 0
        return asked

    def _read_start(self, message: bytes) -> None:
        (code,) = _INTEGER.unpack_from(message, 4)
        if code in _ASKS_FOR_ENCRYPTION:
            self._asked += 1
        else:
            self._starting = False


class _ServerStream:
    """Cuts a server's bytes into messages; its answer about encryption is one byte."""

    def __init__(self) -> None:
        self._rest = b""
        self._single = 0

    def expect_bytes(self, count: int) -> None:
        self._single += count

    def take(self, data: bytes) -> Iterator[bytes]:
        start, data = 0, self._rest + data
        while self._single and start < len(data):
            self._single -= 1
            start += 1
            if data[start - 1 : start] != b"N":
                raise EncryptedError
            yield b"N"
        while (message := _first(data, typed=True, start=start)) is not None:
            start += len(message)
            yield message
        self._rest = data[start:]


class _Commits:
    """Knows a COMMIT as a simple query, and as a prepared statement that is executed."""

    def __init__(self) -> None:
        self._statements: dict[bytes, bool] = {}
        self._portals: dict[bytes, bool] = {}

    def has(self, message: bytes) -> bool:
        """Whether this message makes the server commit."""
        kind, text = message[:1], message[5:]
        if kind == b"Q":
            return _COMMIT.search(text) is not None
        if kind == b"P":
            name, query, _ = text.split(b"\0", 2)
            self._statements[name] = _COMMIT.search(query) is not None
        elif kind == b"B":
            portal, name, _ = text.split(b"\0", 2)
            self._portals[portal] = self._statements.get(name, False)
        elif kind == b"E":
            return self._portals.get(text.split(b"\0", 1)[0], False)
        return False


def _answers_a_commit(message: bytes) -> bool:
    kind, text = message[:1], message[5:]
    return kind == b"E" or (kind == b"C" and text.startswith(_TAGS))


def _first(data: bytes, *, typed: bool, start: int = 0) -> bytes | None:
    """The message that begins at `start`, if all of it is there. Its size counts itself, and not the type."""
    begin = start + typed
    if len(data) < begin + _INTEGER.size:
        return None
    stop = begin + _INTEGER.unpack_from(data, begin)[0]
    return data[start:stop] if len(data) >= stop else None
