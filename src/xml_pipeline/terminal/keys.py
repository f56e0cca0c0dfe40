"""`organism key`: make, list and revoke API keys, in the database alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from xml_pipeline.access.keys import ApiKey, NewKey, new_key
from xml_pipeline.access.roles import Role
from xml_pipeline.errors import InvalidInput, NotFound
from xml_pipeline.terminal import views
from xml_pipeline.terminal.actor import command_line_actor
from xml_pipeline.terminal.options import JsonOption
from xml_pipeline.terminal.secret_file import write_secret

if TYPE_CHECKING:
    from xml_pipeline.storage.database import Database

err = Console(stderr=True, highlight=False)


def add_key_commands(app: typer.Typer, out: Console, panel: str) -> None:
    """Add them to the command line; they print to `out`."""
    keys = typer.Typer(no_args_is_help=True, help="API keys of the gateways (ORGANISM_DATABASE_URL).")
    app.add_typer(keys, name="key", rich_help_panel=panel)
    _add_create(keys, out)
    _add_list(keys, out)
    _add_revoke(keys, out)


def _add_create(keys: typer.Typer, out: Console) -> None:
    @keys.command("create")
    def create(
        name: Annotated[str, typer.Option(help="Whose it is, for people.")],
        role: Annotated[Role, typer.Option(help="viewer looks; operator injects and steers, too; admin does all.")],
        if_none: Annotated[bool, typer.Option("--if-none", help="Only where no key is in force.")] = False,
        write: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write it into this file, for its owner alone.", dir_okay=False),
        ] = None,
        group: Annotated[bool, typer.Option("--group-readable", help="Let the file's group read it, too.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Make a key. It is shown this once, alone on standard output: only its hash is kept."""
        key = new_key(name, role)
        made = asyncio.run(create_key(key, write, if_none=if_none, group_reads=group))
        if as_json:
            views.print_json(out, _made_json(key, write) if made else {"id": None})
        elif not made:
            err.print("a key is in force already: nothing was made", soft_wrap=True)
        else:
            _show_made(key, write, out)


def _show_made(key: NewKey, file: Path | None, out: Console) -> None:
    place = f"in {file}" if file else "shown this once"
    err.print(Text(f"key {key.id}: {key.name}, {key.role.value}; {place}", style="dim"), soft_wrap=True)
    if file is None:
        out.file.write(key.secret + "\n")


def _made_json(key: NewKey, file: Path | None) -> views.Json:
    kept = {"file": str(file)} if file else {"key": key.secret}
    return {"id": str(key.id), "name": key.name, "role": key.role.value, **kept}


def _add_list(keys: typer.Typer, out: Console) -> None:
    @keys.command("list")
    def list_(as_json: JsonOption = False) -> None:
        """All keys, the newest first, those that are revoked among them. Secrets are not kept, and not shown."""
        found = asyncio.run(_list())
        if as_json:
            views.print_json(out, {"keys": [_json(key) for key in found], "count": len(found)})
        else:
            out.print(keys_view(found))


def _add_revoke(keys: typer.Typer, out: Console) -> None:
    @keys.command("revoke")
    def revoke(
        key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `list` shows it.")],
        as_json: JsonOption = False,
    ) -> None:
        """Revoke a key for good: gateways refuse it within two seconds, and close its WebSockets."""
        key = asyncio.run(_revoke(_id(key_id)))
        if as_json:
            views.print_json(out, _json(key))
        else:
            out.print(Text.assemble(("revoked ", "dim"), str(key.id), ("  " + key.name, "dim")), soft_wrap=True)


async def create_key(key: NewKey, file: Path | None, *, if_none: bool, group_reads: bool) -> bool:
    """Whether it was made. What is in the file may be no key where this fails, but no key is made and in no file."""
    from xml_pipeline.storage import api_keys

    async with _database() as db, db.begin() as connection:
        if if_none and not await api_keys.lock_first(connection):
            return False
        await api_keys.create(connection, key, actor=command_line_actor())
        if file is not None:
            write_secret(file, key.secret, group_reads=group_reads)
    return True


async def _list() -> list[ApiKey]:
    from xml_pipeline.storage import api_keys

    async with _database() as db, db.begin() as connection:
        return await api_keys.list_keys(connection)


async def _revoke(id_: UUID) -> ApiKey:
    from xml_pipeline.storage import api_keys

    async with _database() as db, db.begin() as connection:
        key = await api_keys.revoke(connection, id_, actor=command_line_actor())
    if key is None:
        raise NotFound(f"there is no key {id_}: 'organism key list' shows all")
    return key


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    from xml_pipeline.runtime import current_database, required_database_url

    name = f"organism-key-{os.getpid()}"
    async with current_database(required_database_url(), name=name, pool_size=1) as db:
        yield db


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is no key's id: 'organism key list' shows them") from None


def keys_view(keys: Sequence[ApiKey]) -> RenderableType:
    """The keys, one a line."""
    rows = views.table("key", "name", "role", "made", "used", "revoked")
    rows.columns[0].no_wrap = True
    for key in keys:
        times = (key.created_at, key.last_used_at, key.revoked_at)
        made, used, revoked = (views.ago(time.isoformat()) if time else "" for time in times)
        rows.add_row(str(key.id), Text(key.name), key.role.value, made, used, Text(revoked, style="red"))
    return rows


def _json(key: ApiKey) -> views.Json:
    times = {"createdAt": key.created_at, "lastUsedAt": key.last_used_at, "revokedAt": key.revoked_at}
    told = {name: time.isoformat() if time else None for name, time in times.items()}
    return {"id": str(key.id), "name": key.name, "role": key.role.value, **told}
