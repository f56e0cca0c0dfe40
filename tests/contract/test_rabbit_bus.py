from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.bus_hub import RabbitHub
from tests.contract.bus_stop_suite import BusStopSuite
from tests.contract.bus_suite import BusSuite
from xml_pipeline.message_bus.topology import Names, organism_topology


class TestRabbitBus(BusSuite, BusStopSuite):
    @pytest.fixture
    async def hub(self, amqp_url: str, organism_name: str) -> AsyncIterator[RabbitHub]:
        topology = organism_topology(organism_name, ["greeter", "shouter", "third"])
        hub = RabbitHub(amqp_url, Names(organism_name), topology)
        yield hub
        await hub.close()
