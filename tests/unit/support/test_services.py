"""The services that the tests run on are what they say."""

from __future__ import annotations

import aio_pika
import asyncpg
import pytest

from tests.support import apt
from tests.support import broker as broker_module
from tests.support.broker import Broker, BrokerMissing, start_broker
from tests.support.postgres import Databases
from tests.support.rabbitmq_node import greeting


async def test_the_shared_broker_takes_clients(amqp_url: str, organism_name: str) -> None:
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"{organism_name}.probe", exclusive=True)
        assert queue.declaration_result.message_count == 0


async def test_each_database_is_fresh_and_migrated(postgres: Databases, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    tables = await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'")
    await connection.execute("create table mark_of_this_test ()")
    await connection.close()
    other = await asyncpg.connect(postgres.create_database())
    assert tables > 0
    assert await other.fetchval("select to_regclass('mark_of_this_test')") is None
    await other.close()


def test_a_broker_of_ones_own_survives_a_kill(own_broker: Broker) -> None:
    port = int(own_broker.amqp_url.rstrip("/").rpartition(":")[2])
    own_broker.node.kill()
    assert greeting(port) is None
    own_broker.node.start()
    assert greeting(port) is not None


def test_a_named_broker_that_is_not_there_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGANISM_TEST_AMQP_URL", "amqp://127.0.0.1:1/")
    with pytest.raises(BrokerMissing, match="no RabbitMQ answers"):
        start_broker()


def test_without_any_broker_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORGANISM_TEST_AMQP_URL", raising=False)
    monkeypatch.setattr(broker_module, "find_binary", lambda: None)
    monkeypatch.setattr(broker_module, "find_image", lambda: None)
    monkeypatch.setattr(apt, "can_install", lambda: False)
    with pytest.raises(BrokerMissing, match="install rabbitmq-server") as missing:
        start_broker()
    assert "\n" not in str(missing.value)
