"""Whether the service in this container takes work: what Docker asks every few seconds.

Nothing but sockets is imported, and nothing of the project: `organism health` says more, and takes twenty times the
processor time, which a fleet would spend on being asked.
"""

from __future__ import annotations

import os
import socket
import sys

_SECONDS = 3.0
_MOST = 65_536


def main() -> int:
    """0 when /readyz answers 200 on the ops port, else 1; what it said is printed."""
    try:
        answer = ask(int(os.environ.get("ORGANISM_OPS_PORT") or 9100))
    except OSError as error:
        sys.stdout.write(f"no answer: {error}\n")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    sys.stdout.write(body.decode(errors="replace"))
    return 0 if head.split(maxsplit=2)[1:2] == [b"200"] else 1


def ask(port: int) -> bytes:
    """All that the service answers. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while (part := connection.recv(_MOST)) and len(answer) < _MOST:
            answer += part
        return answer


if __name__ == "__main__":
    sys.exit(main())
