"""Sockets in another network namespace: a socket stays in the one it was made in, whoever uses it later."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_NAMED = Path("/run/netns")
_OWN = Path("/proc/self/ns/net")


def make_socket(namespace: str | None = None) -> socket.socket:
    """A TCP socket that blocks nobody, in a namespace named by `ip netns`, else in this process's own."""
    with _inside(namespace) if namespace else contextlib.nullcontext():
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setblocking(False)
    return made


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Of this thread alone; OSError when it may not enter."""
    with _OWN.open() as home, (_NAMED / namespace).open() as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
