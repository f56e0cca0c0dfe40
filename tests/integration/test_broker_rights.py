"""What the users of the broker may not do, and how they are made. What they may, a whole organism shows."""

from __future__ import annotations

import asyncio
import json
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tests.support.broker import Broker
from tests.support.least_rights import PASSWORD, SERVICES, run_organism, with_user
from xml_pipeline.message_bus.broker_users import BrokerUser, definitions
from xml_pipeline.message_bus.connect import connect_bus
from xml_pipeline.message_bus.management import import_definitions
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.rabbit.declaring import NotMade
from xml_pipeline.message_bus.rights import rights_of
from xml_pipeline.message_bus.topology import Binding, Names, organism_topology
from xml_pipeline.terminal.broker_admin import by_rabbitmqctl

LISTENERS = ("payer", "greeter")
NAME = "rights"
NAMES = Names(NAME)
Step = Callable[[AbstractChannel], Awaitable[object]]


@pytest.fixture(scope="module")
def url(managed_broker: Broker) -> str:
    """The broker with the organism on it, and users `r-<service>`, of which `r-one` is a worker of one listener."""
    users = [BrokerUser(f"r-{service}", PASSWORD, rights_of(service, NAME)) for service in SERVICES]
    users.append(BrokerUser("r-one", PASSWORD, rights_of("agent-worker", NAME, ["greeter"])))
    import_definitions(managed_broker.node.management_url, json.dumps(definitions(users, "/")))

    async def declare() -> None:
        bus = await connect_bus(managed_broker.amqp_url, name="test")
        for organism in (NAME, "neighbour"):
            await bus.declare(organism_topology(organism, LISTENERS))
        await bus.close()

    asyncio.run(declare())
    return managed_broker.amqp_url


def publish(exchange: str, key: str = "") -> Step:
    async def step(channel: AbstractChannel) -> object:
        found = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        return await found.publish(aio_pika.Message(b"forged"), key)

    return step


async def _ignore(message: AbstractIncomingMessage) -> None:
    """Take it."""


def consume(queue: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await (await channel.get_queue(queue)).consume(_ignore)

    return step


def get(queue: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await (await channel.get_queue(queue)).get(fail=False)

    return step


def purge(queue: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await (await channel.get_queue(queue)).purge()

    return step


def delete(queue: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await channel.queue_delete(queue)

    return step


def make(queue: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await channel.declare_queue(queue)

    return step


def listen(exchange: str, key: str = "") -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await (await channel.declare_queue("", exclusive=True)).bind(exchange, key)

    return step


def bind(queue: str, exchange: str) -> Step:
    async def step(channel: AbstractChannel) -> object:
        return await (await channel.get_queue(queue)).bind(exchange, "#")

    return step


REFUSED: dict[str, dict[str, Step]] = {
    "agent-worker": {
        "hands an assignment to a listener": publish("", NAMES.agent("payer")),
        "reaches ingress otherwise than by its door": publish("", NAMES.ingress),
        "speaks for a router on the feed": publish(NAMES.events, "feed.router"),
        "speaks for a gateway": publish(NAMES.events, "heartbeat.gateway"),
        "stops the organism": publish(NAMES.control),
        "writes dead letters": publish(NAMES.dead),
        "reads what others used": consume(NAMES.usage),
        "reads turns": consume(NAMES.ingress),
        "takes one of the ledger's": get(NAMES.usage),
        "reads dead letters": consume(NAMES.dead),
        "listens to the feed": listen(NAMES.events, "feed.*"),
        "has ingress for itself": bind(NAMES.ingress, NAMES.control),
        "deletes a queue": delete(NAMES.agent("greeter")),
        "empties a queue": purge(NAMES.ingress),
        "makes a queue": make(f"{NAME}.mine"),
        "reads another organism's": consume("neighbour.agent.payer"),
        "writes to another organism": publish("neighbour.door.ingress"),
    },
    "one": {
        "reads what is for another": consume(NAMES.agent("payer")),
        "takes what is for another": get(NAMES.agent("payer")),
    },
    "gateway": {
        "hands an assignment to a listener": publish("", NAMES.agent("payer")),
        "books usage": publish(NAMES.usage_door),
        "asks the ledger": publish("", NAMES.usage),
        "reads injects of others": consume(NAMES.ingress),
        "reads assignments": consume(NAMES.agent("payer")),
        "speaks for a router": publish(NAMES.events, "feed.router"),
        "deletes a queue": delete(NAMES.ingress),
        "makes a queue": make(f"{NAME}.mine"),
    },
    "usage": {
        "reads turns": consume(NAMES.ingress),
        "reads assignments": consume(NAMES.agent("payer")),
        "speaks for a router": publish(NAMES.events, "feed.router"),
        "deletes a queue": delete(NAMES.usage),
        "makes a queue": make(f"{NAME}.mine"),
        "has a queue of its own": listen(NAMES.events, "feed.*"),
    },
    "router": {
        "speaks for the ledger": publish(NAMES.events, "feed.usage"),
        "listens to the whole feed": listen(NAMES.events, "#"),
        "reads another organism's": consume("neighbour.agent.payer"),
        "makes another organism's queue": make("neighbour.mine"),
        "deletes another organism's queue": delete("neighbour.ingress"),
    },
}


@pytest.mark.parametrize(("user", "what"), [(user, what) for user in REFUSED for what in REFUSED[user]])
async def test_refused(url: str, user: str, what: str) -> None:
    connection = await aio_pika.connect(with_user(url, f"r-{user}"))
    async with connection, asyncio.timeout(20):
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelClosed, match="ACCESS_REFUSED"):
            await REFUSED[user][what](channel)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_may_make_nothing_starts_and_says_what_is_missing(url: str, service: str) -> None:
    bus = await connect_bus(with_user(url, f"r-{service}"), name="test")
    async with asyncio.timeout(20):
        await bus.declare(organism_topology(NAME, LISTENERS))
        new = f"new-{service}"
        if service == "router":
            await bus.declare(organism_topology(NAME, [*LISTENERS, new]))
            assert await bus.depth(NAMES.agent(new)) == 0
        else:
            with pytest.raises(NotMade, match="broker-setup"):
                await bus.declare(organism_topology(NAME, [*LISTENERS, new]))
    await bus.close()


async def test_what_a_worker_is_to_do(url: str) -> None:
    bus = await connect_bus(with_user(url, "r-one"), name="test")
    async with asyncio.timeout(20):
        await bus.declare(organism_topology(NAME, LISTENERS))
        hints = await bus.subscribe([Binding(NAMES.control, "")])
        mine = await bus.consume(NAMES.agent("greeter"), prefetch=1)
        said = [
            Outgoing(NAMES.ingress_door, NAMES.ingress, b"turn"),
            Outgoing(NAMES.usage_door, NAMES.usage, b"used", reply_to=hints.reply_address),
        ]
        assert await bus.publish(said) == [Published.CONFIRMED] * 2
        assert hints.healthy
        assert mine.healthy
    await bus.close()


async def test_a_door_leads_on_after_its_queue_was_deleted(managed_broker: Broker, organism_name: str) -> None:
    names = Names(organism_name)
    bus = await connect_bus(managed_broker.amqp_url, name="test")
    await bus.declare(organism_topology(organism_name, []))
    managed_broker.node.control("delete_queue", names.ingress)
    async with asyncio.timeout(20):
        assert await bus.publish([Outgoing(names.ingress_door, names.ingress, b"turn")]) == [Published.CONFIRMED]
    assert await bus.depth(names.ingress) == 1
    await bus.close()


@pytest.fixture
def organism_file(tmp_path: Path) -> Path:
    file = tmp_path / "organism.yaml"
    file.write_text(
        f"organism: {{name: setup-{secrets.token_hex(3)}}}\n"
        "listeners: [{name: echo, payload_class: echo.Said, handler: echo.echo, description: Says it again}]\n"
    )
    (tmp_path / "echo.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Said:\n    text: str\n\n\nasync def echo(p, m): ...\n"
    )
    return file


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    folder = tmp_path / "passwords"
    folder.mkdir()
    for service in SERVICES:
        (folder / service).write_text(f"{PASSWORD}\n")
    return folder


def test_rabbitmqctl_makes_them_too(managed_broker: Broker) -> None:
    user = BrokerUser(f"c-{secrets.token_hex(3)}", PASSWORD, rights_of("usage", NAME))
    by_rabbitmqctl(managed_broker.node.control_command, json.dumps(definitions([user], "/")))
    assert "Success" in managed_broker.node.control("authenticate_user", user.name, PASSWORD)
    assert user.name in managed_broker.node.control("list_topic_permissions")


def test_again_with_other_passwords_and_to_a_file(managed_broker: Broker, organism_file: Path, passwords: Path) -> None:
    prefix = f"s{secrets.token_hex(3)}-"
    setup = ("broker-setup", "--file", str(organism_file), "--passwords", str(passwords), "--prefix", prefix)
    environment = {"ORGANISM_AMQP_URL": managed_broker.amqp_url}
    way = ("--management", managed_broker.node.management_url)
    for password in (PASSWORD, "another-password"):
        (passwords / "router").write_text(password)
        done = run_organism(*setup, *way, environment=environment)
        assert done.returncode == 0, done.stderr
        assert "Success" in managed_broker.node.control("authenticate_user", f"{prefix}router", password)
    written = organism_file.with_name("definitions.json")
    written.touch(mode=0o644)
    done = run_organism(*setup, "--definitions", str(written), "--service", "usage", environment=environment)
    assert done.returncode == 0, done.stderr
    assert [user["name"] for user in json.loads(written.read_text())["users"]] == [f"{prefix}usage"]
    assert PASSWORD not in written.read_text()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    nowhere = str(organism_file.with_name("no") / "definitions.json")
    done = run_organism(*setup, "--definitions", nowhere, environment=environment)
    assert (done.returncode, "cannot write" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ((), 2, "--management URL, --rabbitmqctl COMMAND or --definitions FILE"),
        (("--management", "http://guest:wrong@{place}"), 1, "refused the login"),
        (("--management", "http://127.0.0.1:1"), 1, "does not answer"),
        (("--management", "127.0.0.1"), 2, "is like http://user:password@host:15672"),
        (("--management", "http://[bad"), 2, "is like http://user:password@host:15672"),
        (("--management", "http://127.0.0.1:99999"), 2, "is like http://user:password@host:15672"),
        (("--rabbitmqctl", "no-such-command"), 2, "cannot be run"),
        (("--rabbitmqctl", "docker 'x"), 2, "--rabbitmqctl cannot be read as a shell would"),
        (("--rabbitmqctl", "false"), 1, "false import_definitions"),
        (("--rabbitmqctl", "true", "--listener", "nobody"), 2, "there is no listener nobody: there are echo"),
    ],
)
def test_what_cannot_be_done_is_said(
    managed_broker: Broker, organism_file: Path, passwords: Path, more: tuple[str, ...], status: int, said: str
) -> None:
    place = managed_broker.node.management_url.split("@")[1]
    setup = ("broker-setup", "--file", str(organism_file), "--passwords", str(passwords))
    arguments = [word.format(place=place) for word in more]
    done = run_organism(*setup, *arguments, environment={"ORGANISM_AMQP_URL": managed_broker.amqp_url})
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert PASSWORD not in capfd.readouterr().err
