"""The gateway: REST and WebSocket."""

from __future__ import annotations

from xml_pipeline.early_stop import end_at_once_when_asked

end_at_once_when_asked()

from xml_pipeline.access.decisions import read_allowed_hosts  # noqa: E402 - a stop may come meanwhile
from xml_pipeline.runtime import Runtime, require_free_port, run_process  # noqa: E402
from xml_pipeline.server.gateway import run_gateway  # noqa: E402


async def main(runtime: Runtime) -> None:
    """Run a gateway until it is asked to stop."""
    organism = runtime.load_organism()
    allowed_hosts = read_allowed_hosts(runtime.settings.allowed_hosts)
    host, port = runtime.settings.host, runtime.settings.port or organism.port
    require_free_port(host, port)
    async with runtime.tracing(organism) as tracing, runtime.database() as database, runtime.bus() as bus:
        await run_gateway(
            bus,
            database,
            organism,
            stop=runtime.stop,
            instance=runtime.instance,
            host=host,
            port=port,
            health=runtime.health,
            allowed_hosts=allowed_hosts,
            metrics=runtime.metrics,
            tracing=tracing,
        )


if __name__ == "__main__":
    run_process("gateway", main)
