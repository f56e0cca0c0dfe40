from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.bus_hub import RabbitHub
from tests.contract.bus_outage_suite import BusOutageSuite
from tests.contract.rabbit_outage import RabbitOutage
from tests.support.broker import Broker, start_broker
from xml_pipeline.message_bus.topology import Names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def node() -> Iterator[Broker]:
    broker = start_broker(own=True)
    yield broker
    broker.close()


@pytest.fixture
def outage(node: Broker) -> RabbitOutage:
    return RabbitOutage(node.node)


@pytest.fixture
async def hub(node: Broker, organism_name: str) -> AsyncIterator[RabbitHub]:
    hub = RabbitHub(node.amqp_url, Names(organism_name))
    yield hub
    await hub.close()


class TestRabbitOutage(BusOutageSuite):
    pass
