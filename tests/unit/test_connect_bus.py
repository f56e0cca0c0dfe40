from __future__ import annotations

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.topology import Queue, Topology, merge, organism_topology


async def test_all_who_connect_to_one_memory_url_share_a_broker(organism_name: str) -> None:
    url = f"memory://{organism_name}"
    one, two = await connect_bus(url, name="one"), await connect_bus(url, name="two")
    other = await connect_bus("memory://", name="other")
    await one.declare(Topology((), (Queue("q"),), ()))
    assert await two.publish([Outgoing("", "q", b"")]) == [Published.CONFIRMED]
    assert await other.publish([Outgoing("", "q", b"")]) == [Published.UNROUTABLE]
    for bus in (one, two, other):
        await bus.close()


@pytest.mark.parametrize("url", ["http://localhost/", "localhost:5672", "", "amqp://[bad", "amqp://host:port/"])
async def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="amqp://"):
        await connect_bus(url, name="test")


def test_topologies_merge_without_repeating() -> None:
    one, two = organism_topology("o", ["a"]), organism_topology("o", ["a", "b"])
    assert merge(one, two) == merge(merge(one, two), one)
    assert {queue.name for queue in merge(one, two).queues} == {queue.name for queue in two.queues}
    assert len(merge(one, two).queues) == len(two.queues)
