"""RabbitMQ in a container, for machines that have Docker and no rabbitmq-server."""

from __future__ import annotations

import contextlib
import secrets
from typing import cast

import docker
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.support.processes import SupportError, free_port, wait_until
from tests.support.rabbitmq_node import greeting

_IMAGES = ("rabbitmq:4-management", "rabbitmq:4")
_PULL_SECONDS = 180
# Who has the node's Erlang cookie at home.
_USER = "rabbitmq"
_START_SECONDS = 120.0


def find_image() -> str | None:
    """An image that is there or can be pulled; None when there is no Docker to ask."""
    try:
        client = docker.from_env(timeout=_PULL_SECONDS)
    except DockerException:
        return None
    with contextlib.closing(client):
        _without_reaper_if_missing(client)
        present = [image for image in _IMAGES if _is_there(client, image)]
        return present[0] if present else _pull(client, _IMAGES[0])


def _without_reaper_if_missing(client: docker.DockerClient) -> None:
    """Testcontainers ends containers by another one, whose image may be neither here nor to be had."""
    reaper = testcontainers_config.ryuk_image
    try:
        if not _is_there(client, reaper):
            _pull(client, reaper)
    except SupportError:
        testcontainers_config.ryuk_disabled = True


def _is_there(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.get(image)
    except ImageNotFound:
        return False
    return True


def _pull(client: docker.DockerClient, image: str) -> str | None:
    repository, _, tag = image.partition(":")
    try:
        client.images.pull(repository, tag=tag)
    except (DockerException, OSError) as error:
        raise SupportError(f"Docker cannot pull {image}: {' '.join(str(error).split())[:200]}") from error
    return image


class RabbitMQContainer:
    """One container on a fixed port, so that it is found again after a restart."""

    def __init__(self, image: str) -> None:
        self.port, self._management_port = free_port(), free_port()
        # A node's data is found by its host name, so the host name has to last too.
        name = f"rabbit-{secrets.token_hex(4)}"
        self._container = DockerContainer(image, hostname=name)
        # Docker takes an address beside the port, which testcontainers' types leave out.
        ports = cast("dict[str, object]", self._container.ports)
        ports["5672/tcp"] = ("127.0.0.1", self.port)
        ports["15672/tcp"] = ("127.0.0.1", self._management_port)
        self._created = False

    @property
    def url(self) -> str:
        """The AMQP URL of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """Where its management plugin answers, with an administrator's login."""
        return f"http://guest:guest@127.0.0.1:{self._management_port}"

    @property
    def control_command(self) -> str:
        """The rabbitmqctl of this node, for a shell."""
        return f"docker exec -i -u {_USER} {self._container.get_wrapped_container().id} rabbitmqctl -q"

    @property
    def pid(self) -> int:
        """The process id of the node, as the host sees it."""
        inner = self._container.get_wrapped_container()
        inner.reload()
        return int(inner.attrs["State"]["Pid"])

    def start(self) -> None:
        """Start the container, and return when the broker greets clients."""
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        try:
            wait_until(self._greets, timeout=_START_SECONDS, what="RabbitMQ in Docker answers")
        except BaseException:
            self.close()
            raise

    def stop(self) -> None:
        """Stop the broker in order, keeping what it stored."""
        self._container.get_wrapped_container().stop(timeout=60)

    def kill(self) -> None:
        """End the broker with SIGKILL."""
        self._container.get_wrapped_container().kill()

    def suspend(self) -> None:
        """Freeze the broker: its connections stay open and nothing answers."""
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        """Let a suspended broker go on."""
        self._container.get_wrapped_container().unpause()

    def wipe(self) -> None:
        """Replace the stopped container by an empty one."""
        self._container.stop()
        self._created = False

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl in it, and return what it printed."""
        status, output = self._container.get_wrapped_container().exec_run(
            ["rabbitmqctl", "--quiet", *arguments], user=_USER
        )
        said = bytes(output).decode(errors="replace")
        if status != 0:
            raise SupportError(f"rabbitmqctl {' '.join(arguments)}: {said.strip()}")
        return said

    def close(self) -> None:
        """Remove the container."""
        self._container.stop()

    def _greets(self) -> bool:
        return greeting(self.port) is not None
