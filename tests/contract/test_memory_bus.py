from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.bus_hub import MemoryHub
from tests.contract.bus_suite import BusSuite
from xml_pipeline.message_bus.topology import Names


class TestMemoryBus(BusSuite):
    @pytest.fixture
    async def hub(self, organism_name: str) -> AsyncIterator[MemoryHub]:
        hub = MemoryHub(Names(organism_name))
        yield hub
        await hub.close()
