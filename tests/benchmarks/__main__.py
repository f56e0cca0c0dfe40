"""`make bench`: our figures with the machine's, each beside the raw one of the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tests.benchmarks import bus, turns, usage, xml
from tests.benchmarks.figures import Figure, machine


def main() -> None:
    """Print each part as soon as it is measured."""
    print(machine(), flush=True)
    _part("XML", xml.run)
    _part("RabbitMQ, one way", bus.run)
    _part("Turns, all services", lambda: asyncio.run(turns.run()))
    _part("Usage into PostgreSQL", usage.run)


def _part(title: str, run: Callable[[], Iterable[Figure]]) -> None:
    print(f"\n{title}", flush=True)
    for figure in run():
        print(f"  {figure}", flush=True)


if __name__ == "__main__":
    main()
