"""A wall clock that is wrong for one process, by libfaketime; its timers and its monotonic clock stay right.

Under libfaketime 0.9.10 (Debian 12) time.sleep() raises EINVAL. Event loops, locks and queues wait in other ways.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.support import apt
from tests.support.processes import SupportError

_PACKAGE = "libfaketime"
_LIBRARY = "libfaketimeMT.so.1"  # the one for threads
_ROOT = Path("/usr")
_PLACES = (f"lib/*/faketime/{_LIBRARY}", f"lib*/faketime/{_LIBRARY}", f"local/lib*/faketime/{_LIBRARY}")
_CHECK = "import time; print(time.time(), time.monotonic())"
_CHECK_OFFSET = 7200.0
_CLOSE = 60.0
_SHARED_MEMORY = Path("/dev/shm")
_LEFTOVER = re.compile(r"(?:sem\.faketime_sem|faketime_shm)_(\d+)")


def faketime_environment(offset_seconds: float) -> dict[str, str] | None:
    """What to add to a process's environment, so that its wall clock is that much ahead; below zero, behind.

    Its children inherit it. None when libfaketime is not here and cannot be installed, or does not work.
    """
    library = _working_library()
    return _environment(library, offset_seconds) if library is not None else None


def remove_leftovers() -> None:
    """Remove the shared memory that libfaketime leaves behind when its process was killed."""
    for path in _SHARED_MEMORY.glob("*faketime*"):
        match = _LEFTOVER.fullmatch(path.name)
        if match is not None and not psutil.pid_exists(int(match[1])):
            path.unlink(missing_ok=True)


@functools.cache
def _working_library() -> Path | None:
    library = _find()
    if library is None and apt.can_install():
        with contextlib.suppress(SupportError):
            apt.install(_PACKAGE)
        library = _find()
    return library if library is not None and _works(library) else None


def _find() -> Path | None:
    return next((found for place in _PLACES for found in sorted(_ROOT.glob(place))), None)


def _environment(library: Path, offset_seconds: float) -> dict[str, str]:
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset_seconds:+.6f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",  # its name before 0.9.9
        "NO_FAKE_STAT": "1",
    }


def _works(library: Path) -> bool:
    wall, monotonic = _clocks({**os.environ, **_environment(library, _CHECK_OFFSET)})
    ahead = abs(wall - time.time() - _CHECK_OFFSET) < _CLOSE
    return ahead and abs(monotonic - time.monotonic()) < _CLOSE


def _clocks(environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall clock and monotonic clock as a new process sees them; none that can be right if it fails."""
    done = subprocess.run([sys.executable, "-c", _CHECK], env=environment, capture_output=True, text=True)
    wall, _, monotonic = done.stdout.partition(" ")
    return (float(wall), float(monotonic)) if done.returncode == 0 else (0.0, 0.0)
