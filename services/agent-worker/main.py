"""The agent-worker: runs handlers and reports turns."""

from __future__ import annotations

from xml_pipeline.runtime import Runtime, run_process
from xml_pipeline.worker.service import run_worker


async def main(runtime: Runtime) -> None:
    """Run an agent-worker until it is asked to stop."""
    organism = runtime.load_organism()
    processes = runtime.settings.worker_processes
    async with runtime.bus() as bus:
        await run_worker(bus, organism, stop=runtime.stop, instance=runtime.instance, processes=processes)


if __name__ == "__main__":
    run_process("agent-worker", main)
