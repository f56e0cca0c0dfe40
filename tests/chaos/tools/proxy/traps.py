"""The fault that holds and the counters: what all connections of a proxy share, and decide by."""

from __future__ import annotations

from typing import Literal

from tests.chaos.tools.proxy.faults import CutCommits, Fault, PassThrough, Stats, SwallowConfirms

Fate = Literal["pass", "before", "after"]


class Traps:
    """Says of each confirm and each COMMIT what becomes of it, and counts."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.fault: Fault = PassThrough()
        self._seen = 0

    def set(self, fault: Fault) -> None:
        """Let another fault hold, counting from nothing."""
        self.fault = fault
        self.stats.fault = fault.name
        self._seen = 0

    @property
    def swallows_confirms(self) -> bool:
        """Whether confirms vanish just now."""
        return isinstance(self.fault, SwallowConfirms)

    def confirm_swallowed(self) -> None:
        """Count a confirm that has vanished."""
        self._seen += 1
        self.stats.swallowed_confirms += 1

    @property
    def enough_confirms(self) -> bool:
        """Whether so many confirms have vanished that the connections are to be reset."""
        return isinstance(self.fault, SwallowConfirms) and self._seen >= (self.fault.count or float("inf"))

    def fate_of_commit(self) -> Fate:
        """What becomes of the COMMIT that is about to pass."""
        if not isinstance(self.fault, CutCommits):
            return "pass"
        self._seen += 1
        if self._seen % self.fault.every:
            return "pass"
        if self.fault.moment == "before":
            self.stats.dropped_commits += 1
        return self.fault.moment

    def commit_swallowed(self) -> None:
        """Count a COMMIT whose answer has vanished."""
        self.stats.swallowed_commits += 1
