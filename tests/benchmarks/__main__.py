"""`make bench`: our figures with the machine's, each beside the raw one of the same run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable

import uvloop

from tests.benchmarks import audit, bus, ingestion, migrations, reports, scaling, turns, usage, xml
from tests.benchmarks.figures import machine
from tests.support.broker import start_broker
from tests.support.postgres_server import binaries
from xml_pipeline.logs import configure_logging


def main() -> None:
    """Print each part as soon as it is measured, and nothing else unless something is wrong."""
    configure_logging("warning", style="console")
    os.environ.setdefault("ORGANISM_LOG_LEVEL", "warning")  # the same for children
    broker = start_broker()
    try:
        print(machine([broker.kind, f"{_postgres_version()}, waiting for the disk"]), flush=True)
        _part("XML", xml.run)
        _part("RabbitMQ, one way", lambda: bus.run(broker.amqp_url))
        _part("Turns, all services", lambda: uvloop.run(turns.run(broker.amqp_url)))
        _part(scaling.titles()[0], lambda: scaling.few(broker))
        _part(scaling.titles()[1], lambda: scaling.many(broker))
        _part("Usage into PostgreSQL", usage.run)
        _part("Usage through RabbitMQ", lambda: ingestion.run(broker.amqp_url))
        _part(f"Reports and usage API on {reports.size():,} calls of 30 days", reports.run)
        _part("Closing the books", audit.run)
        _part("Migrations of a database that is full", migrations.run)
    finally:
        broker.close()


def _postgres_version() -> str:
    command = [str(binaries() / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _part(title: str, run: Callable[[], Iterable[object]]) -> None:
    print(f"\n{title}", flush=True)
    for figure in run():
        print(f"  {figure}", flush=True)


if __name__ == "__main__":
    main()
