"""A network of its own for one service, whose link the kernel can cut: packets vanish, and nobody is told.

Two network namespaces with one link between them: the service runs inside, our proxies listen at the outer end and
connect where they were started. So no address and no rule is added where everybody else is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import psutil

from tests.chaos.tools.proxy.client import Proxy
from tests.support.processes import SupportError

_PREFIX: Final = "xpchaos"
_OURS = re.compile(rf"{_PREFIX}-(\d+)-\d+-(?:in|out)")
_OUTER: Final = "10.213.0.1"
_INNER: Final = "10.213.0.2"
_DEVICE: Final = "link0"
_MACS: Final = {"out": "02:00:0a:d5:00:01", "in": "02:00:0a:d5:00:02"}
_CUT: Final = """\
table inet cut {
  chain arriving { type filter hook input priority 0; policy drop; }
  chain leaving { type filter hook output priority 0; policy drop; }
}
"""
_numbers = itertools.count()


@functools.cache
def can_isolate() -> bool:
    """Whether this machine allows islands: root, `ip` and `nft`, and a kernel that does what they say."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft"))):
        return False
    try:
        with Island() as island:
            island.cut()
            island.heal()
    except SupportError:
        return False
    return True


class Island:
    """A place for processes that reach the outside by proxies alone; made by `with`, and removed with all of these.

    End the processes inside before the island.
    """

    def __init__(self) -> None:
        number = next(_numbers)
        self._inside = f"{_PREFIX}-{os.getpid()}-{number}-in"
        self._outside = f"{_PREFIX}-{os.getpid()}-{number}-out"
        self._proxies: list[Proxy] = []
        self._cut = False

    def __enter__(self) -> Self:
        remove_leftovers()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the proxies and remove the network."""
        for proxy in self._proxies:
            proxy.close()
        self._proxies.clear()
        for name in (self._inside, self._outside):
            if name in _namespaces():
                _run("ip", "netns", "delete", name)

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs this one inside; its process id is that of what it runs."""
        return ["ip", "netns", "exec", self._inside, *command]

    def reach(self, url: str) -> str:
        """The URL by which a process inside reaches the server that has this one outside."""
        return self.proxy_to(url).url

    def proxy_to(self, url: str) -> Proxy:
        """A new proxy at the outer end of the link, before a server outside."""
        return self._start(Proxy(url, host=_OUTER, listen_in=self._outside))

    def expose(self, port: int) -> str:
        """The http:// URL by which the outside reaches a process that listens inside, on all addresses."""
        return self._start(Proxy(f"http://{_INNER}:{port}", connect_in=self._outside)).url

    def cut(self) -> None:
        """From now on packets vanish, both ways, of connections that are open and of new ones."""
        if not self._cut:
            _run(*self._outer("nft", "-f", "-"), given=_CUT)
            self._cut = True

    def heal(self) -> None:
        """Let packets through again."""
        if self._cut:
            _run(*self._outer("nft", "delete", "table", "inet", "cut"))
            self._cut = False

    def _make(self) -> None:
        for name in (self._inside, self._outside):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        ends = ["name", _DEVICE, "netns", self._outside, "address", _MACS["out"]]
        ends += ["type", "veth", "peer", "name", _DEVICE, "netns", self._inside, "address", _MACS["in"]]
        _run("ip", "link", "add", *ends)
        self._set_up(self._outside, _OUTER)
        self._set_up(self._inside, _INNER)
        # Neighbours that are known for good: a cut is silent, and not "no route to host" after three seconds.
        self._introduce(self._outside, _INNER, _MACS["in"])
        self._introduce(self._inside, _OUTER, _MACS["out"])
        _run("ip", "-n", self._inside, "route", "add", "default", "via", _OUTER)

    def _set_up(self, name: str, address: str) -> None:
        _run("ip", "-n", name, "address", "add", f"{address}/30", "dev", _DEVICE)
        _run("ip", "-n", name, "link", "set", _DEVICE, "up")

    def _introduce(self, name: str, address: str, mac: str) -> None:
        _run("ip", "-n", name, "neigh", "replace", address, "lladdr", mac, "dev", _DEVICE, "nud", "permanent")

    def _start(self, proxy: Proxy) -> Proxy:
        proxy.start()
        self._proxies.append(proxy)
        return proxy

    def _outer(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self._outside, *command]


def remove_leftovers() -> None:
    """Remove the islands of runs whose process is gone; others are left alone."""
    for name in _namespaces():
        match = _OURS.fullmatch(name)
        if match is not None and not psutil.pid_exists(int(match[1])):
            # Another run may be doing the same just now.
            with contextlib.suppress(SupportError):
                _run("ip", "netns", "delete", name)


def _namespaces() -> set[str]:
    return {line.split()[0] for line in _run("ip", "netns", "list").splitlines() if line}


def _run(*command: str, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise SupportError(f"{' '.join(command)}: {' '.join(done.stderr.split())}")
    return done.stdout
