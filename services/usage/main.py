"""The usage service: grants holds before LLM calls, books usage after them."""

from __future__ import annotations

from xml_pipeline.early_stop import end_at_once_when_asked

end_at_once_when_asked()

from xml_pipeline.ledger.service import run_usage  # noqa: E402 - a stop may come while it is imported
from xml_pipeline.runtime import Runtime, run_process  # noqa: E402


async def main(runtime: Runtime) -> None:
    """Run a usage service until it is asked to stop."""
    organism = runtime.load_organism()
    async with runtime.tracing(organism) as tracing, runtime.database() as database, runtime.bus() as bus:
        await run_usage(
            bus,
            database,
            organism,
            stop=runtime.stop,
            instance=runtime.instance,
            health=runtime.health,
            metrics=runtime.metrics,
            tracing=tracing,
        )


if __name__ == "__main__":
    run_process("usage", main)
