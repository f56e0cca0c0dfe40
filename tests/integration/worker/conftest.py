from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.integration.worker.fake_router import write_organism
from tests.integration.worker.zoo import LISTENERS, MODULE
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.memory import MemoryBroker
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.organism.model import Organism

Connect = Callable[[], Bus]


@pytest.fixture
def zoo(tmp_path: Path, organism_name: str) -> Organism:
    return write_organism(tmp_path, organism_name, LISTENERS, MODULE)


@pytest.fixture
def memory() -> Connect:
    return MemoryBroker().connect


@pytest.fixture(params=["memory", "rabbitmq"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Makes buses to one broker: of both kinds."""
    if request.param == "memory":
        yield MemoryBroker().connect
        return
    url = request.getfixturevalue("amqp_url")
    buses = [await connect_bus(url, name=f"worker-test-{number}") for number in range(3)]
    free = list(buses)
    yield free.pop
    await asyncio.gather(*(bus.close() for bus in buses))
