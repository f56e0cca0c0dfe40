"""`organism setup`: all that is done once before services start, by one process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xml_pipeline.access.keys import new_key
from xml_pipeline.access.roles import Role
from xml_pipeline.message_bus.broker_users import BrokerUser
from xml_pipeline.message_bus.rights import SERVICES, rights_of
from xml_pipeline.terminal import broker_setup, database_setup
from xml_pipeline.terminal.keys import create_key
from xml_pipeline.terminal.passwords import read_passwords


def add_setup_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("setup", rich_help_panel=panel)
    def setup(
        database_passwords: Annotated[Path, typer.Option(help="A folder with a file for each service.")],
        broker_passwords: Annotated[Path, typer.Option(help="A folder with a file for each service.")],
        management: Annotated[
            str, typer.Option(help="http://admin@host:15672; the password is that of the AMQP URL, or else named here.")
        ],
        first_key: Annotated[
            Path, typer.Option(help="The file for an admin's API key, for owner and group, where no key is in force.")
        ],
        prefix: Annotated[str, typer.Option(help="In front of each user's name: users belong to the server.")] = "",
        file: Annotated[
            Path | None, typer.Option("--file", "-f", help="The organism.yaml; else ORGANISM_FILE or ./organism.yaml.")
        ] = None,
    ) -> None:
        """Do `migrate`, `database-setup --close`, `broker-setup` and `key create --if-none`, one after the other.

        For machines that start services after it, as `docker compose up` does each time: it can be repeated.
        """
        from xml_pipeline.organism.load import load_organism
        from xml_pipeline.runtime import read_settings, required_database_url, what_to_do
        from xml_pipeline.storage.schema import current_revision, migrate

        organism = load_organism(file or read_settings().file)
        with what_to_do("ORGANISM_DATABASE_URL"):
            migrate(required_database_url())
        out.print(f"the schema is current: {current_revision()}")
        found = read_passwords(database_setup.SERVICES, database_setup.KIND, database_passwords)
        database_setup.set_up_database(found, out, prefix=prefix, close=True)
        found = read_passwords(SERVICES, broker_setup.KIND, broker_passwords)
        users = [
            BrokerUser(prefix + name, password, rights_of(name, organism.name)) for name, password in found.items()
        ]
        broker_setup.set_up_broker(organism, users, broker_setup.Way(management=management), out)
        key = new_key("first", Role.ADMIN)
        made = asyncio.run(create_key(key, first_key, if_none=True, group_reads=True))
        out.print(f"the first key is in {first_key}" if made else "a key is in force already")
