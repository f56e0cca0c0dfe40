"""A scrap of shared memory in which a child keeps whose code it is executing, so that its death has a culprit.

Cells of 64 bits: the run whose step the event loop executes (0: none), a count of steps, and for each thread slot the
run whose synchronous handler it executes. The parent only reads; a cell is written whole, so no lock is needed.
"""

from __future__ import annotations

import mmap
import os
import tempfile

THREAD_SLOTS = 64
_LOOP, _STEPS, _THREADS = 0, 1, 2
_SIZE = 8 * (_THREADS + THREAD_SLOTS)


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
        cells[_LOOP] = run

    def leave(self) -> None:
        """The step is over."""
        self._cells[_LOOP] = 0

    def enter_thread(self, slot: int, run: int) -> None:
        """Thread slot `slot` begins to execute `run`; 0 ends it."""
        self._cells[_THREADS + slot] = run

    @property
    def step(self) -> tuple[int, int]:
        """The run in the event loop, 0 for none, and the count of steps so far."""
        return self._cells[_LOOP], self._cells[_STEPS]

    @property
    def threads(self) -> frozenset[int]:
        """The runs whose handlers are in threads."""
        return frozenset(self._cells[_THREADS:]) - {0}

    def close(self) -> None:
        """Unmap."""
        self._cells.release()
        self._map.close()
