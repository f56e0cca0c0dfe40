"""What a step took, and what was found to be wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def say(line: str) -> None:
    """A line of the report."""
    print(f"compose-test: {line}", flush=True)


def timed(name: str, step: Callable[[], T]) -> T:
    """Do it, and say how many seconds it took."""
    began = time.monotonic()
    done = step()
    say(f"{name}: {time.monotonic() - began:.1f} s")
    return done
