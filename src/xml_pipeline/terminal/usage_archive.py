"""`organism usage`: what was used; `organism usage archive`: months of it into files, and out of the database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType

from xml_pipeline.errors import InvalidInput
from xml_pipeline.failpoints import arm_failpoints
from xml_pipeline.terminal import views
from xml_pipeline.terminal.client import client_of_environment
from xml_pipeline.terminal.usage_files import require_format

if TYPE_CHECKING:
    from xml_pipeline.terminal.archive_run import Archive, Archived


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
        from xml_pipeline.terminal.archive_run import Archive

        arm_failpoints()
        require_format(form)
        done = asyncio.run(_archive(Archive(_month(before), to, form, drop), dry_run=dry_run))
        out.print(_view(done, dry_run=dry_run) if done else "nothing to archive")


def _view(done: Sequence[Archived], *, dry_run: bool) -> RenderableType:
    title = "nothing was archived: a dry run" if dry_run else None
    table = views.table("month", "events", "cost in USD", "file", numbers=["events", "cost in USD"], title=title)
    for one in done:
        totals = one.totals
        table.add_row(f"{one.month:%Y-%m}", f"{totals.events:,}", f"{totals.cost:,.6f}", str(one.file))
    return table


def _month(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput(f"--before must be a month like 2026-01, not {text!r}") from None


async def _archive(wanted: Archive, *, dry_run: bool) -> list[Archived]:
    from xml_pipeline.runtime import current_database, required_database_url

    url, name = required_database_url(), f"organism-archive-{os.getpid()}"
    async with current_database(url, name=name, pool_size=2, patient=True) as db:
        return await (wanted.look(db) if dry_run else wanted.run(db))
