"""`organism usage`: what was used; `organism usage archive`: months of it into files, and out of the database."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xml_pipeline.errors import InvalidInput
from xml_pipeline.terminal import views
from xml_pipeline.terminal.client import client_of_environment
from xml_pipeline.terminal.usage_files import FORMATS, sha256_of, written

if TYPE_CHECKING:
    from xml_pipeline.storage.archiving import Totals
    from xml_pipeline.storage.database import Database


def add_usage_commands(app: typer.Typer, out: Console, panel: str) -> None:
    """Add them to the command line; they print to `out`."""
    usage_app = typer.Typer()
    app.add_typer(usage_app, name="usage", rich_help_panel=panel)

    @usage_app.callback(invoke_without_command=True)
    def usage(
        context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
    ) -> None:
        """Tokens and cost, by agent and by model; `archive` takes old months out of the database."""
        if context.invoked_subcommand is None:
            answer = client_of_environment().get("/usage")
            if as_json:
                views.print_json(out, answer)
            else:
                out.print(views.usage_view(answer))

    @usage_app.command("archive")
    def archive(
        before: Annotated[str, typer.Option(help="Archive the months before this one.", metavar="YYYY-MM")],
        to: Annotated[Path, typer.Option(help="The folder for the files.", file_okay=False)],
        form: Annotated[str, typer.Option("--format", help="parquet or csv.")] = "parquet",
        drop: Annotated[bool, typer.Option("--drop", help="Drop the months; else their tables stay, apart.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be archived.")] = False,
    ) -> None:
        """Write whole months of usage events to files and take them out of the books.

        Their sums are carried forward: totals, reports by day and `organism audit` stay as they are. A month of which
        events come later than that keeps them in the database.
        """
        if form not in FORMATS:
            raise InvalidInput(f"--format must be one of {', '.join(FORMATS)}")
        done = asyncio.run(_archive(_month(before), to, form, drop=drop, dry_run=dry_run))
        table = views.table("month", "events", "cost in USD", "file", numbers=["events", "cost in USD"])
        for month, totals, file in done:
            table.add_row(f"{month:%Y-%m}", f"{totals.events:,}", f"{totals.cost:,.6f}", "-" if dry_run else str(file))
        out.print(table if done else "nothing to archive")


def _month(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput(f"--before must be a month like 2026-01, not {text!r}") from None


async def _archive(
    before: datetime, folder: Path, form: str, *, drop: bool, dry_run: bool
) -> list[tuple[datetime, Totals, Path]]:
    from xml_pipeline.runtime import SettingMissing, current_database, read_settings
    from xml_pipeline.storage import archiving, organism_state, partitions

    url = read_settings().database_url
    if url is None:
        raise SettingMissing("ORGANISM_DATABASE_URL is not set, like postgresql://organism@127.0.0.1/organism")
    done = []
    async with current_database(url, name=f"organism-archive-{os.getpid()}", pool_size=2) as db:
        async with db.begin() as connection:
            this_month = partitions.month_of(await organism_state.database_time(connection))
            months = [month for month in await partitions.months(connection) if month < before]
            await archiving.require_settled(connection, min(before, this_month))
        if months and months[-1] >= this_month:
            raise archiving.ArchiveRefused(f"{months[-1]:%Y-%m} is not over: archive months before {this_month:%Y-%m}")
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        for month in months:
            file = folder / f"usage-{month:%Y-%m}.{form}"
            done.append((month, await _one(db, month, file, form, drop=drop, dry_run=dry_run), file))
    return done


async def _one(db: Database, month: datetime, file: Path, form: str, *, drop: bool, dry_run: bool) -> Totals:
    from xml_pipeline.storage import archiving

    async with db.snapshot() as connection:
        totals = await archiving.totals(connection, month)
        if dry_run:
            return totals
        with written(file, form, archiving.NAMES) as writer:
            async for rows in archiving.read_month(connection, month):
                writer.write(rows)
    async with db.begin() as connection:
        await archiving.take_out(connection, month, totals, file=file.name, sha256=sha256_of(file), drop=drop)
    return totals
