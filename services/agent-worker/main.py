"""The agent-worker: runs handlers and reports turns."""

from __future__ import annotations

from xml_pipeline.early_stop import end_at_once_when_asked

end_at_once_when_asked()

from xml_pipeline.runtime import Runtime, run_process  # noqa: E402 - a stop may come while it is imported
from xml_pipeline.stopping import AFTER_HANDLERS  # noqa: E402
from xml_pipeline.worker.service import run_worker  # noqa: E402
from xml_pipeline.worker.settings import WorkerSettings  # noqa: E402


async def main(runtime: Runtime) -> None:
    """Run an agent-worker until it is asked to stop."""
    settings = WorkerSettings.from_environment(processes=runtime.settings.worker_processes)
    runtime.stop_limit = settings.grace + AFTER_HANDLERS
    organism = runtime.load_organism()
    async with runtime.tracing(organism) as tracing, runtime.bus() as bus:
        await run_worker(
            bus,
            organism,
            stop=runtime.stop,
            instance=runtime.instance,
            settings=settings,
            health=runtime.health,
            metrics=runtime.metrics,
            tracing=tracing,
        )


if __name__ == "__main__":
    run_process("agent-worker", main)
