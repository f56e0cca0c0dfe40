"""Children do not outlive their worker, blocked or not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.worker.fake_router import PATIENCE, write_organism

LISTENERS = "- {name: one, payload_class: idle.Nothing, handler: idle.run, description: does nothing}"
MODULE = """
from __future__ import annotations
import sys, time
from pathlib import Path
from pydantic import BaseModel
from xml_pipeline.worker import HandlerMetadata

class Nothing(BaseModel):
    text: str = ""

async def run(payload: Nothing, metadata: HandlerMetadata) -> None:
    print("blocking", flush=True)
    time.sleep(3600)
"""
PROGRAM = """
import asyncio, sys
from pathlib import Path
from uuid import uuid4
from xml_pipeline.envelope.model import Assignment, Envelope, Kind
from xml_pipeline.worker.jobs import Job
from xml_pipeline.worker.pool import Pool, Source
from xml_pipeline.worker.settings import WorkerSettings

async def main(folder, blocked):
    text = Path(folder, "organism.yaml").read_text()
    pool = Pool(Source(text, folder), WorkerSettings(processes=2), None)
    await pool.start()
    if blocked:
        for _ in range(2):
            envelope = Envelope("api", "one", uuid4(), b"<one.nothing><text></text></one.nothing>")
            pool.submit(Job("one", Assignment(uuid4(), 1, Kind.REQUEST, uuid4(), 1, 60.0, 0, (), envelope)))
        await asyncio.sleep(0)
    print("children", *pool.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2] == "blocked"))
"""


@pytest.mark.parametrize("state", ["idle", "blocked"])
def test_children_end_with_a_worker_that_is_killed(tmp_path: Path, organism_name: str, state: str) -> None:
    write_organism(tmp_path, organism_name, LISTENERS, MODULE, module_name="idle")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stderr is not None
        while not (line := worker.stdout.readline()).startswith("children"):
            pass
        children = [psutil.Process(int(pid)) for pid in line.split()[1:]]
        blocking = 0  # two who print at once may share a line
        while blocking < len(children) and state == "blocked":
            line = worker.stderr.readline()
            blocking += line.count("blocking")
        worker.kill()
    limit = time.monotonic() + PATIENCE
    while any(map(_alive, children)):
        assert time.monotonic() < limit
        time.sleep(0.01)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
