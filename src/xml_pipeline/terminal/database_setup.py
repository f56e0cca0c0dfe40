"""`organism database-setup`: a user of PostgreSQL for each service, with no more rights than it needs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xml_pipeline.errors import InvalidInput
from xml_pipeline.terminal.options import PrefixOption
from xml_pipeline.terminal.passwords import read_passwords

SERVICES = ("gateway", "router", "usage")
KIND = "database"


def add_database_setup_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("database-setup", rich_help_panel=panel)
    def database_setup(
        passwords: Annotated[
            Path | None,
            typer.Option(help="A folder with a file for each service; else ORGANISM_GATEWAY_DATABASE_PASSWORD, ..."),
        ] = None,
        prefix: PrefixOption = "",
        service: Annotated[
            list[str] | None, typer.Option(help="Only this one's user: gateway, router, usage. Repeat for more.")
        ] = None,
        close: Annotated[
            bool, typer.Option("--close", help="Let in no users of the server but these and whom its owner named.")
        ] = False,
    ) -> None:
        """Make the users of the database that services run as, or give them other passwords.

        ORGANISM_DATABASE_URL names one who owns the tables and may make roles. It can be repeated.
        """
        wanted = wanted_services(service, SERVICES)
        set_up_database(read_passwords(wanted, KIND, passwords), out, prefix=prefix, close=close)


def set_up_database(passwords: dict[str, str], out: Console, *, prefix: str = "", close: bool = False) -> None:
    """Make the users of these services, and say so. Raises SettingMissing, DatabaseUnavailable, Refused."""
    asyncio.run(_set_up(passwords, prefix, close=close))
    for name in passwords:
        out.print(f"user {prefix}{name}: its password is set, its rights are those of organism_{name}")


def wanted_services(given: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are asked for, in the usual order. Raises InvalidInput for one that has no user."""
    unknown = sorted(set(given or ()).difference(known))
    if unknown:
        raise InvalidInput(f"there is no user for {', '.join(unknown)} here: there are {', '.join(known)}")
    return tuple(name for name in known if not given or name in given)


async def _set_up(passwords: dict[str, str], prefix: str, *, close: bool) -> None:
    from xml_pipeline.runtime import current_database, required_database_url
    from xml_pipeline.storage.users import set_up_users

    name = f"organism-database-setup-{os.getpid()}"
    async with current_database(required_database_url(), name=name, pool_size=1) as db:
        await set_up_users(db, passwords, prefix=prefix, close=close)
