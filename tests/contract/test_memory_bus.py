from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.bus_hub import MemoryHub
from tests.contract.bus_outage_suite import BusOutageSuite
from tests.contract.bus_stop_suite import BusStopSuite
from tests.contract.bus_suite import BusSuite
from xml_pipeline.message_bus.topology import Names


class MemoryOutage:
    """Stops, starts and empties a broker in memory."""

    def __init__(self, hub: MemoryHub) -> None:
        self._broker = hub.broker

    async def stop(self) -> None:
        self._broker.stop()

    async def start(self) -> None:
        self._broker.start()

    async def wipe(self) -> None:
        self._broker.wipe()


@pytest.fixture
async def hub(organism_name: str) -> AsyncIterator[MemoryHub]:
    hub = MemoryHub(Names(organism_name))
    yield hub
    await hub.close()


@pytest.fixture
def outage(hub: MemoryHub) -> MemoryOutage:
    return MemoryOutage(hub)


class TestMemoryBus(BusSuite, BusStopSuite):
    pass


class TestMemoryOutage(BusOutageSuite):
    pass
