"""`organism setup`: all that is done once before services start, by one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from xml_pipeline.access.keys import new_key
from xml_pipeline.access.roles import Role
from xml_pipeline.errors import Unavailable
from xml_pipeline.message_bus.broker_users import BrokerUser
from xml_pipeline.message_bus.rights import SERVICES, rights_of
from xml_pipeline.terminal import broker_setup, database_setup
from xml_pipeline.terminal.keys import create_key
from xml_pipeline.terminal.options import FileOption, PrefixOption
from xml_pipeline.terminal.passwords import read_passwords

log = structlog.get_logger(__name__)
_WAIT = 60.0
_PAUSE = 1.0


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
        prefix: PrefixOption = "",
        file: FileOption = None,
    ) -> None:
        """Do `migrate`, `database-setup --close`, `broker-setup` and `key create --if-none`, one after the other.

        For machines that start services after it, as `docker compose up` does each time: it can be repeated. Where
        database or broker do not answer yet it waits for them, a minute at most for each.
        """
        from xml_pipeline.organism.load import load_organism
        from xml_pipeline.runtime import read_settings

        organism = load_organism(file or read_settings().file)
        for_database = read_passwords(database_setup.SERVICES, database_setup.KIND, database_passwords)
        for_broker = read_passwords(SERVICES, broker_setup.KIND, broker_passwords)
        users = [BrokerUser(prefix + name, word, rights_of(name, organism.name)) for name, word in for_broker.items()]
        way = broker_setup.Way(management=management)
        once_it_answers(lambda: _migrate(out))
        once_it_answers(lambda: database_setup.set_up_database(for_database, out, prefix=prefix, close=True))
        once_it_answers(lambda: broker_setup.set_up_broker(organism, users, way, out))
        once_it_answers(lambda: _first_key(first_key, out))


def once_it_answers(step: Callable[[], None], *, seconds: float = _WAIT, pause: float = _PAUSE) -> None:
    """Do it, again and again while what it needs does not answer. Raises its last error after so many seconds."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return step()
        except Unavailable as error:
            if time.monotonic() > limit:
                raise
            log.warning("setup_waits", reason=str(error))
            time.sleep(pause)


def _migrate(out: Console) -> None:
    from xml_pipeline.runtime import required_database_url
    from xml_pipeline.storage.schema import current_revision, migrate

    migrate(required_database_url())
    out.print(f"the schema is current: {current_revision()}")


def _first_key(file: Path, out: Console) -> None:
    made = asyncio.run(create_key(new_key("first", Role.ADMIN), file, if_none=True, group_reads=True))
    out.print(f"the first key is in {file}" if made else "a key is in force already")
