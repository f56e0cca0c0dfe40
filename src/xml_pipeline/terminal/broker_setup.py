"""`organism broker-setup`: what an organism has on RabbitMQ, and a user for each service with its rights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xml_pipeline.errors import InvalidInput
from xml_pipeline.message_bus.broker_users import BrokerUser, definitions
from xml_pipeline.message_bus.management import import_definitions, vhost_of, with_login_of
from xml_pipeline.message_bus.rights import SERVICES, rights_of
from xml_pipeline.message_bus.topology import organism_topology
from xml_pipeline.terminal.broker_admin import by_rabbitmqctl
from xml_pipeline.terminal.database_setup import wanted_services
from xml_pipeline.terminal.options import FileOption, ListenerOption, PrefixOption, ServiceOption
from xml_pipeline.terminal.passwords import read_passwords
from xml_pipeline.terminal.secret_file import write_secret

if TYPE_CHECKING:
    from xml_pipeline.message_bus.topology import Topology
    from xml_pipeline.organism.model import Organism

KIND = "broker"
_WORKER = "agent-worker"


def add_broker_setup_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("broker-setup", rich_help_panel=panel)
    def broker_setup(
        file: FileOption = None,
        passwords: Annotated[
            Path | None,
            typer.Option(help="A folder with a file for each service; else ORGANISM_GATEWAY_BROKER_PASSWORD, ..."),
        ] = None,
        prefix: PrefixOption = "",
        service: ServiceOption = None,
        listener: ListenerOption = None,
        management: Annotated[
            str | None,
            typer.Option(help="http://admin@host:15672; the password is that of the AMQP URL, or else named here."),
        ] = None,
        rabbitmqctl: Annotated[
            str | None, typer.Option(help="The command, such as 'docker exec -i rabbitmq rabbitmqctl'.")
        ] = None,
        to_file: Annotated[
            Path | None, typer.Option("--definitions", help="Write the users to this file, for RabbitMQ to import.")
        ] = None,
    ) -> None:
        """Declare exchanges, queues and bindings, and make the users that services run as.

        ORGANISM_AMQP_URL names one who may do everything in its virtual host. Users are made by --management, or by
        --rabbitmqctl, or written to a file. It can be repeated: passwords and rights are then what is given now.
        """
        from xml_pipeline.organism.load import load_organism
        from xml_pipeline.runtime import read_settings

        ways = [way for way in (management, rabbitmqctl, to_file) if way is not None]
        if len(ways) != 1:
            raise InvalidInput("say how users are made: --management URL, --rabbitmqctl COMMAND or --definitions FILE")
        organism = load_organism(file or read_settings().file)
        require_known(listener or (), tuple(organism.listeners))
        found = read_passwords(wanted_services(service, SERVICES), KIND, passwords)
        users = [
            BrokerUser(prefix + name, password, rights_of(name, organism.name, listener if name == _WORKER else None))
            for name, password in found.items()
        ]
        set_up_broker(organism, users, Way(management, rabbitmqctl, to_file), out)


@dataclass(frozen=True, slots=True)
class Way:
    """How users of the broker are made; one of these is given."""

    management: str | None = None
    rabbitmqctl: str | None = None
    to_file: Path | None = None


def set_up_broker(organism: Organism, users: Sequence[BrokerUser], way: Way, out: Console) -> None:
    """Declare what the organism has on the broker, make these users, and say so.

    Raises SettingMissing, InvalidInput, BrokerUnavailable, Refused.
    """
    from xml_pipeline.runtime import required_amqp_url

    url = required_amqp_url()
    document = definitions(users, vhost_of(url))
    asyncio.run(_declare(url, organism_topology(organism.name, organism.listeners)))
    _import(json.dumps(document, indent=2), url, way)
    out.print(f"declared: exchanges and queues of {organism.name}, {len(organism.listeners)} listeners")
    for user in users:
        out.print(f"user {user.name}: {'written' if way.to_file else 'its password and rights are set'}")


def require_known(listeners: Sequence[str], known: Sequence[str]) -> None:
    """Raises InvalidInput for a listener that is not in organism.yaml."""
    unknown = sorted(set(listeners).difference(known))
    if unknown:
        raise InvalidInput(f"there is no listener {', '.join(unknown)}: there are {', '.join(known)}")


async def _declare(url: str, topology: Topology) -> None:
    from xml_pipeline.message_bus.connect import connect_bus
    from xml_pipeline.runtime import what_to_do

    with what_to_do("ORGANISM_AMQP_URL"):
        bus = await connect_bus(url, name="organism-broker-setup")
    try:
        await bus.declare(topology)
    finally:
        await bus.close()


def _import(body: str, amqp_url: str, way: Way) -> None:
    if way.management is not None:
        import_definitions(with_login_of(way.management, amqp_url), body)
    elif way.rabbitmqctl is not None:
        by_rabbitmqctl(way.rabbitmqctl, body)
    elif way.to_file is not None:
        write_secret(way.to_file, body)
