"""A process whose wall clock is wrong: what it reads, and that its timers go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.tools.clock import faketime_environment, remove_leftovers

HOUR = 3600.0
CLOSE = 120.0
WAIT = 0.19  # uvloop's clock ticks in milliseconds: it may be early by a few
SHARED_MEMORY = Path("/dev/shm")
READ = """
import asyncio, datetime, json, subprocess, sys, threading, time
import uvloop

async def waited():
    start = time.monotonic()
    await asyncio.sleep(0.1)
    try:
        async with asyncio.timeout(0.1):
            await asyncio.sleep(3600)
    except TimeoutError:
        return time.monotonic() - start

def locked():
    start = time.monotonic()
    threading.Event().wait(0.2)
    return time.monotonic() - start

child = [sys.executable, "-c", "import time; print(time.time())"]
print(json.dumps({
    "wall": time.time(),
    "datetime": datetime.datetime.now(datetime.timezone.utc).timestamp(),
    "child": float(subprocess.run(child, capture_output=True, text=True).stdout),
    "monotonic": time.monotonic(),
    "waited": [asyncio.run(waited()), uvloop.run(waited()), locked()],
}))
"""


@pytest.mark.parametrize("offset", [HOUR, -HOUR])
def test_only_the_wall_clock_is_off(offset: float) -> None:
    environment = faketime_environment(offset)
    if environment is None:
        pytest.skip("libfaketime is not here and cannot be installed")
    seen = read_clocks(environment)
    for clock in ("wall", "datetime", "child"):
        assert seen[clock] == pytest.approx(time.time() + offset, abs=CLOSE)
    assert seen["monotonic"] == pytest.approx(time.monotonic(), abs=CLOSE)
    assert all(WAIT <= waited < CLOSE for waited in seen["waited"])


def test_only_what_a_dead_process_left_is_removed() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    gone = [SHARED_MEMORY / f"faketime_shm_{ended.pid}", SHARED_MEMORY / f"sem.faketime_sem_{ended.pid}"]
    kept = SHARED_MEMORY / f"faketime_shm_{os.getpid()}"
    for path in (*gone, kept):
        path.touch()
    try:
        remove_leftovers()
        assert [path.exists() for path in (*gone, kept)] == [False, False, True]
    finally:
        kept.unlink()


def read_clocks(environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", READ], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
