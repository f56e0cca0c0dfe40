"""Finds a RabbitMQ for the tests, and says which one it took.

In this order: ORGANISM_TEST_AMQP_URL, a rabbitmq-server binary, Docker, apt on Debian as root.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from docker.errors import DockerException

from tests.support import apt
from tests.support.processes import SupportError
from tests.support.rabbitmq_docker import RabbitMQContainer, find_image
from tests.support.rabbitmq_node import RabbitMQNode, find_binary, greeting, version

URL_VARIABLE = "ORGANISM_TEST_AMQP_URL"
_NOTHING = (
    "the tests need a RabbitMQ and found none: set ORGANISM_TEST_AMQP_URL, install rabbitmq-server, "
    "start Docker, or run as root on Debian"
)


class BrokerMissing(Exception):
    """There is no broker for the tests, or not the one that was asked for; the message is one line."""


class Controllable(Protocol):
    """A broker of the tests' own, with which they may do what they like."""

    @property
    def url(self) -> str:
        """The AMQP URL of the default virtual host."""

    @property
    def management_url(self) -> str:
        """Where its management plugin answers, with an administrator's login."""

    @property
    def control_command(self) -> str:
        """The rabbitmqctl of this node, for a shell."""

    @property
    def pid(self) -> int:
        """The process id of the running node."""

    def start(self) -> None:
        """Start it, and return when it greets clients."""

    def stop(self) -> None:
        """Stop it in order, keeping what it stored."""

    def kill(self) -> None:
        """End it with SIGKILL."""

    def suspend(self) -> None:
        """Freeze it: its connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let it go on."""

    def wipe(self) -> None:
        """Forget what it stored, while it is stopped."""

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on it, and return what it printed."""

    def close(self) -> None:
        """End it and remove what it left."""


class Broker:
    """A running RabbitMQ: where it is, what it is, and, when it is ours, how to break it."""

    def __init__(self, url: str, kind: str, node: Controllable | None = None) -> None:
        self.amqp_url = url
        self.kind = kind
        self._node = node

    @property
    def node(self) -> Controllable:
        """The means to stop, kill, suspend and restart this broker; SupportError when it is not ours."""
        if self._node is None:
            raise SupportError(f"the broker of {URL_VARIABLE} is not for the tests to stop")
        return self._node

    def close(self) -> None:
        """End the broker, unless it was there before the tests."""
        if self._node is not None:
            self._node.close()


def unique_organism(prefix: str = "test") -> str:
    """An organism name that nobody else uses: all its exchanges and queues start with it."""
    return f"{prefix}-{secrets.token_hex(4)}"


def start_broker(*, own: bool = False, management: bool = False) -> Broker:
    """The first broker that can be had.

    With `own`, one that the caller may stop and kill; with `management`, one that has that plugin, too.
    """
    sources: list[Callable[[], Broker | None]] = [
        partial(_from_binary, management),
        _from_docker,
        partial(_from_apt, management),
    ]
    if not (own or management):
        sources.insert(0, _from_environment)
    tried: list[str] = []
    for source in sources:
        try:
            broker = source()
        except SupportError as error:
            tried.append(str(error).splitlines()[0])
            continue
        if broker is not None:
            return broker
    raise BrokerMissing("; ".join([_NOTHING, *tried]))


def _from_environment() -> Broker | None:
    url = os.environ.get(URL_VARIABLE)
    if not url:
        return None
    parts = urlsplit(url)
    said = greeting(parts.port or 5672, parts.hostname or "127.0.0.1")
    if said is None:
        raise BrokerMissing(f"no RabbitMQ answers at {URL_VARIABLE} ({parts.hostname}:{parts.port or 5672})")
    return Broker(url, f"RabbitMQ {version(said)} of {URL_VARIABLE}")


def _from_binary(management: bool) -> Broker | None:
    binary = find_binary()
    return _own_node(binary, str(binary), management) if binary else None


def _from_docker() -> Broker | None:
    image = find_image()
    if image is None:
        return None
    container = RabbitMQContainer(image)
    try:
        container.start()
    except DockerException as error:
        raise SupportError(f"Docker cannot run {image}: {' '.join(str(error).split())[:200]}") from error
    return Broker(container.url, f"RabbitMQ in Docker, {image}", container)


def _from_apt(management: bool) -> Broker | None:
    if not apt.can_install():
        return None
    apt.install("rabbitmq-server")
    binary = find_binary()
    return _own_node(binary, "rabbitmq-server installed with apt-get", management) if binary else None


def _own_node(binary: Path, origin: str, management: bool) -> Broker:
    node = RabbitMQNode(binary, management=management)
    try:
        node.start()
        said = greeting(node.port)
    except BaseException:
        node.close()
        raise
    return Broker(node.url, f"RabbitMQ {version(said or b'')}, {origin}", node)
