"""`organism doctor` on a real broker: each check finds the failure that is planted for it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tests.integration.doctor.asking import failures, findings, patient, readers, until
from tests.support.broker import Broker
from xml_pipeline.doctor.model import State
from xml_pipeline.message_bus.topology import Names


async def test_a_broker_that_is_well(managed_broker: Broker, organism_name: str) -> None:
    async with readers(managed_broker.amqp_url, organism_name):
        found = await findings(
            **patient(managed_broker, organism_name), management_url=managed_broker.node.management_url
        )
    assert failures(found) == set()
    assert found["broker-alarms"].state is State.OK
    assert found["broker-clock"].state is State.OK
    assert found["broker-version"].said.startswith("RabbitMQ ")


async def test_queues_that_are_missing_or_not_read(managed_broker: Broker, organism_name: str) -> None:
    names = Names(organism_name)
    assert failures(await findings(**patient(managed_broker, organism_name))) == {"broker-topology"}
    async with readers(managed_broker.amqp_url, organism_name, but=names.usage):
        found = await findings(**patient(managed_broker, organism_name))
    assert failures(found) == {"consumers"}
    assert found["consumers"].said == f"nobody reads {names.usage} (0 waiting)"


@pytest.mark.parametrize(
    ("plant", "mend"),
    [
        (("set_vm_memory_high_watermark", "absolute", "1MB"), ("set_vm_memory_high_watermark", "0.6")),
        (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "50MB")),
    ],
)
async def test_alarms(
    managed_broker: Broker, organism_name: str, plant: tuple[str, ...], mend: tuple[str, ...]
) -> None:
    control, management = managed_broker.node.control, managed_broker.node.management_url
    look = partial(findings, **patient(managed_broker, organism_name))
    async with readers(managed_broker.amqp_url, organism_name):
        await asyncio.to_thread(control, *plant)
        try:
            await until(look, {"broker-blocked"})
            await until(partial(look, management_url=management), {"broker-blocked", "broker-alarms"})
        finally:
            await asyncio.to_thread(control, *mend)
        await until(partial(look, management_url=management), set())


async def test_a_broker_that_is_gone_or_lets_nobody_in(managed_broker: Broker, organism_name: str) -> None:
    gone = await findings(amqp_url="amqp://guest:guest@127.0.0.1:1/", organism=organism_name)
    assert failures(gone) == {"broker"}
    wrong = managed_broker.amqp_url.replace("guest:guest", "guest:wrong")
    refused = await findings(amqp_url=wrong, organism=organism_name)
    assert "refused the login" in refused["broker"].said
    management = managed_broker.node.management_url.replace("guest:guest", "guest:wrong")
    found = await findings(**patient(managed_broker, organism_name), management_url=management)
    assert "broker-management" in failures(found)
