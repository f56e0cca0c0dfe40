"""`organism reprice`: charge calls that are booked by the prices that are known now."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType

from xml_pipeline.terminal import views
from xml_pipeline.terminal.actor import command_line_actor
from xml_pipeline.terminal.options import JsonOption
from xml_pipeline.terminal.spans import read_span

if TYPE_CHECKING:
    from xml_pipeline.ledger.repricing import Totals
    from xml_pipeline.organism.model import Price
    from xml_pipeline.storage.database import Database
    from xml_pipeline.storage.repricing import Selection

_ALL = "all"


def add_reprice_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("reprice", rich_help_panel=panel)
    def reprice(
        model: Annotated[str, typer.Option(help="The model, as it is in the ledger.")],
        since: Annotated[str, typer.Option("--from", help="The first day or time, in UTC.", metavar="DATE")],
        until: Annotated[str, typer.Option("--to", help="The last day; a time is excluded.", metavar="DATE")],
        provider: Annotated[str | None, typer.Option(help="Only calls of this provider.")] = None,
        file: Annotated[
            Path | None,
            typer.Option("--file", "-f", help="Take the prices of this organism.yaml, not of the one in force."),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Charge the calls of a model by the prices that are known now, each by its time.

        Costs of calls, budgets, and sums by hour, day and tag change together; needs ORGANISM_DATABASE_URL alone.
        """
        from xml_pipeline.storage.repricing import Selection

        selection = Selection(model, *read_span(since, until), provider)
        totals = asyncio.run(_reprice(selection, file, dry_run=dry_run))
        if as_json:
            views.print_json(out, _json(totals, dry_run=dry_run))
        else:
            out.print(repricing_view(totals, dry_run=dry_run))


async def _reprice(selection: Selection, file: Path | None, *, dry_run: bool) -> Mapping[str, Totals]:
    from xml_pipeline.ledger.repricer import Repricer
    from xml_pipeline.llm.pricing import Prices
    from xml_pipeline.runtime import current_database, required_database_url

    async with current_database(required_database_url(), name=f"organism-reprice-{os.getpid()}", pool_size=2) as db:
        pricing = Prices(await _prices(db, file)).cost
        return await Repricer(db, selection, pricing, actor=command_line_actor(), dry_run=dry_run).run()


async def _prices(db: Database, file: Path | None) -> tuple[Price, ...]:
    from xml_pipeline.organism.load import load_prices, parse_prices
    from xml_pipeline.storage import configuration

    if file is not None:
        return load_prices(file)
    async with db.begin() as connection:
        latest = await configuration.latest(connection)
    return () if latest is None else parse_prices(latest.text, label="the configuration in force")


def repricing_view(totals: Mapping[str, Totals], *, dry_run: bool) -> RenderableType:
    """What changed, by provider and in all."""
    numbers = ["calls", "changed", "unpriced", "old cost", "new cost", "difference"]
    title = "nothing was changed: a dry run" if dry_run else None
    rows = views.table("provider", *numbers, numbers=numbers, title=title)
    for provider, total in _lines(totals):
        rows.add_row(
            provider, f"{total.rows:,}", f"{total.changed:,}", f"{total.unpriced:,}",
            f"{total.old_cost:,.6f}", f"{total.new_cost:,.6f}", f"{total.difference:+,.6f}",
        )  # fmt: skip
    return rows


def _json(totals: Mapping[str, Totals], *, dry_run: bool) -> views.Json:
    """Money as text: JSON's numbers are not exact."""
    lines = [
        {
            "provider": provider,
            "calls": total.rows,
            "changed": total.changed,
            "unpriced": total.unpriced,
            "oldCost": format(total.old_cost, "f"),
            "newCost": format(total.new_cost, "f"),
            "difference": format(total.difference, "f"),
        }
        for provider, total in _lines(totals)
    ]
    return {"dryRun": dry_run, "providers": lines[:-1], "total": {**lines[-1], "provider": None}}


def _lines(totals: Mapping[str, Totals]) -> list[tuple[str, Totals]]:
    from xml_pipeline.ledger.repricing import Totals

    return [*sorted(totals.items()), (_ALL, sum(totals.values(), Totals()))]
