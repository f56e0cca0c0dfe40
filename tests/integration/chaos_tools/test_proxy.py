"""The proxy's faults as its clients see them: plain sockets, a RabbitMQ, a PostgreSQL."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.chaos.tools.proxy.client import Proxy
from tests.contract.bus_hub import RabbitHub, receive
from tests.support.processes import wait_until
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.rabbit import connect_rabbit
from xml_pipeline.message_bus.topology import Names, organism_topology
from xml_pipeline.storage.database import Database

LIMIT = 10.0
LARGE = 8 << 20


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that says what it is told."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            yield proxy
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((proxy.host, proxy.port), timeout=LIMIT)


def says(peer: socket.socket, data: bytes) -> bool:
    """Whether the answer is the same."""
    peer.sendall(data)
    return read(peer, len(data)) == data


def read(peer: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := peer.recv(65536)):
        got += piece
    return got


def test_bytes_pass_and_are_counted(proxy: Proxy) -> None:
    with connect(proxy) as peer:
        assert says(peer, b"hello")
        stats = proxy.stats()
    assert (stats.connections, stats.open_connections) == (1, 1)
    assert (stats.bytes_to_server, stats.bytes_to_client) == (5, 5)
    wait_until(lambda: proxy.stats().open_connections == 0, timeout=LIMIT, what="the connection has ended")


def test_more_than_all_buffers_hold_passes(proxy: Proxy) -> None:
    data = b"0123456789abcdef" * (LARGE // 16)
    with connect(proxy) as peer:
        sending = threading.Thread(target=peer.sendall, args=(data,))
        sending.start()
        assert read(peer, len(data)) == data
        sending.join()


def test_in_a_black_hole_nothing_passes_until_it_heals(proxy: Proxy) -> None:
    with connect(proxy) as early:
        assert says(early, b"before")
        proxy.blackhole()
        with connect(proxy) as late:
            for peer in (early, late):
                peer.sendall(b"held")
                peer.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    peer.recv(1)
            assert proxy.stats().bytes_to_server == len(b"before")
            proxy.pass_through()
            for peer in (early, late):
                peer.settimeout(LIMIT)
                assert read(peer, 4) == b"held"


def test_a_server_does_not_see_that_a_client_ended_inside_a_black_hole(proxy: Proxy) -> None:
    peer = connect(proxy)
    assert says(peer, b"before")
    proxy.blackhole()
    peer.close()
    with connect(proxy):
        # The proxy has looked around once more by the time it has accepted this one.
        wait_until(lambda: proxy.stats().connections == 2, timeout=LIMIT, what="the second is accepted")
        assert proxy.stats().open_connections == 2
    proxy.pass_through()
    wait_until(lambda: proxy.stats().open_connections == 0, timeout=LIMIT, what="both connections have ended")


def test_a_cut_resets_what_is_open_and_nothing_else(proxy: Proxy) -> None:
    with connect(proxy) as peer:
        assert says(peer, b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    with connect(proxy) as peer:
        assert says(peer, b"after")
    assert proxy.stats().resets == 1


def test_a_cut_ends_a_black_hole_s_connections_too(proxy: Proxy) -> None:
    with connect(proxy) as early:
        assert says(early, b"before")
        proxy.blackhole()
        with connect(proxy) as late:
            wait_until(lambda: proxy.stats().connections == 2, timeout=LIMIT, what="both are accepted")
            proxy.cut()
            for peer in (early, late):
                with pytest.raises(ConnectionResetError):
                    peer.recv(1)


def test_who_is_refused_may_come_back_later(proxy: Proxy) -> None:
    with connect(proxy) as early:
        assert says(early, b"before")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert says(early, b"still there")
    proxy.pass_through()
    with connect(proxy) as peer:
        assert says(peer, b"after")


def test_a_delay_is_paid_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    proxy.delay(0.15)
    with connect(proxy) as peer:
        start = time.monotonic()
        for piece in (b"one", b"two", b"three"):
            peer.sendall(piece)
        assert read(peer, 11) == b"onetwothree"
        assert time.monotonic() - start >= 0.3


def test_what_a_delay_still_holds_goes_at_once_when_it_is_over(proxy: Proxy) -> None:
    proxy.delay(3600)
    with connect(proxy) as peer:
        peer.sendall(b"late")
        wait_until(lambda: proxy.stats().connections == 1, timeout=LIMIT, what="it is accepted")
        proxy.pass_through()
        assert read(peer, 4) == b"late"


@pytest.fixture
def broker_proxy(amqp_url: str) -> Iterator[Proxy]:
    with Proxy(amqp_url) as proxy:
        yield proxy


@pytest.fixture
async def buses(amqp_url: str, broker_proxy: Proxy, organism_name: str) -> AsyncIterator[tuple[Bus, Bus, str]]:
    """One behind the proxy, one beside it, and a queue that both know."""
    topology = organism_topology(organism_name, [])
    hub = RabbitHub(amqp_url, Names(organism_name), topology)
    beside = await hub.connect()
    await beside.declare(topology)
    behind = await connect_rabbit(broker_proxy.url, name="behind")
    yield behind, beside, hub.names.ingress
    await behind.close()
    await hub.close()


async def test_a_message_arrives_and_its_confirm_does_not(broker_proxy: Proxy, buses: tuple[Bus, Bus, str]) -> None:
    behind, beside, queue = buses
    assert await behind.publish([_message(queue, b"one")]) == [Published.CONFIRMED]
    broker_proxy.swallow_confirms(count=1)
    assert await behind.publish([_message(queue, b"two")]) == [Published.UNKNOWN]
    stats = broker_proxy.stats()
    assert (stats.swallowed_confirms, stats.fault) == (1, "pass_through")
    assert stats.resets >= 1
    consumer = await beside.consume(queue, prefetch=10)
    assert [one.body for one in await receive(consumer, 2)] == [b"one", b"two"]


async def test_confirms_are_swallowed_for_so_long_at_most(broker_proxy: Proxy) -> None:
    broker_proxy.swallow_confirms(seconds=0.1)
    wait_until(lambda: broker_proxy.stats().fault == "pass_through", timeout=LIMIT, what="the fault is over")


async def test_a_consumer_s_acks_pass_while_confirms_vanish(broker_proxy: Proxy, buses: tuple[Bus, Bus, str]) -> None:
    behind, beside, queue = buses
    await beside.publish([_message(queue, b"one")])
    broker_proxy.swallow_confirms()
    consumer = await behind.consume(queue, prefetch=10)
    (delivery,) = await receive(consumer, 1)
    await consumer.ack([delivery])
    await consumer.close()
    broker_proxy.cut()
    again = await beside.consume(queue, prefetch=10)
    await beside.publish([_message(queue, b"two")])
    assert [one.body for one in await receive(again, 1)] == [b"two"]


@pytest.fixture
def database_proxy(database_url: str) -> Iterator[Proxy]:
    with Proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def direct(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_url)
    await connection.execute("create table marks (name text primary key)")
    yield connection
    await connection.close()


async def test_a_commit_happens_and_its_client_does_not_know(
    database_proxy: Proxy, direct: asyncpg.Connection[asyncpg.Record]
) -> None:
    database_proxy.cut_commits(every=2)
    client = await asyncpg.connect(database_proxy.url)
    await _insert(client, "first")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await _insert(client, "second")
    assert await _marks(direct) == {"first", "second"}
    stats = database_proxy.stats()
    assert (stats.swallowed_commits, stats.dropped_commits, stats.resets) == (1, 0, 1)


async def test_a_commit_that_never_arrives_leaves_nothing(
    database_proxy: Proxy, direct: asyncpg.Connection[asyncpg.Record]
) -> None:
    client = await asyncpg.connect(database_proxy.url)
    database_proxy.cut_commits(moment="before")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await _insert(client, "lost")
    database_proxy.pass_through()
    again = await asyncpg.connect(database_proxy.url)
    await _insert(again, "kept")
    await again.close()
    assert await _marks(direct) == {"kept"}
    assert database_proxy.stats().dropped_commits == 1


async def test_the_services_own_pool_commits_in_a_way_that_is_seen(
    database_proxy: Proxy, direct: asyncpg.Connection[asyncpg.Record]
) -> None:
    database = Database.connect(database_proxy.url)
    database_proxy.cut_commits()
    with pytest.raises(DatabaseUnavailable):
        async with database.begin() as connection:
            await connection.exec_driver_sql("insert into marks values ('one')")
    assert await _marks(direct) == {"one"}
    await database.close()


async def _insert(client: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    async with client.transaction():
        await client.execute("insert into marks values ($1)", name)


async def _marks(client: asyncpg.Connection[asyncpg.Record]) -> set[str]:
    return {row[0] for row in await client.fetch("select name from marks")}


def _message(queue: str, body: bytes) -> Outgoing:
    return Outgoing(exchange="", routing_key=queue, body=body)
