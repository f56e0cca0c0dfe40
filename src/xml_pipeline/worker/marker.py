"""A scrap of shared memory in which a child keeps whose code it is executing, so that its death has a culprit.

Two cells of 64 bits: the run whose step the event loop executes (0: none), and a count of steps. The parent only reads;
a cell is written whole, so no lock is needed.
"""

from __future__ import annotations

import mmap
import os
import tempfile

_RUN, _STEPS = 0, 1
_SIZE = 16


def make_marker_file() -> int:
    """A descriptor of an anonymous file for one marker."""
    with tempfile.TemporaryFile() as file:
        file.truncate(_SIZE)
        return os.dup(file.fileno())


class Marker:
    """A marker over an open descriptor, which may be closed after."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._cells = memoryview(self._map).cast("Q")

    def enter(self, run: int) -> None:
        """The event loop begins a step of `run`."""
        cells = self._cells
        cells[_STEPS] += 1
        cells[_RUN] = run

    def leave(self) -> None:
        """The step is over."""
        self._cells[_RUN] = 0

    @property
    def step(self) -> tuple[int, int]:
        """The run in the event loop, 0 for none, and the count of steps so far."""
        return self._cells[_RUN], self._cells[_STEPS]

    def close(self) -> None:
        """Unmap."""
        self._cells.release()
        self._map.close()
