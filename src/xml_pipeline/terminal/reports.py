"""`organism report`: what the database's views say, from ORGANISM_DATABASE_URL alone."""

from __future__ import annotations

import asyncio
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from xml_pipeline.errors import InvalidInput

if TYPE_CHECKING:
    from xml_pipeline.reports.query import Result, Wanted


class Format(StrEnum):
    """How a report is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    CHART = "chart"


DayOption = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="The first day, in UTC.")]
LastDayOption = Annotated[
    datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last day, in UTC, itself included.")
]


def add_report_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("report", rich_help_panel=panel)
    def report(
        name: Annotated[str | None, typer.Argument(help="The report; without one they are listed.")] = None,
        first: DayOption = None,
        last: LastDayOption = None,
        group_by: Annotated[
            str | None, typer.Option(metavar="COL[,COL]", help="What it is summed up by, such as day,model.")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="How many rows at most.")] = None,
        form: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.TABLE,
        file: Annotated[Path | None, typer.Option("--out", help="Write to this file.")] = None,
    ) -> None:
        """What was used, what it cost and what is left, from the database of ORGANISM_DATABASE_URL."""
        from xml_pipeline.reports.definitions import REPORTS, report_named
        from xml_pipeline.reports.query import Wanted

        if name is None:
            for each in REPORTS.values():
                out.print(Text.assemble(f"{each.name:<20}", (each.title, "dim")))
            return
        by = None if group_by is None else tuple(part.strip() for part in group_by.split(",") if part.strip())
        wanted = Wanted(report_named(name), _day(first), _day(last), by or None, limit)
        if wanted.report.range is None and (first or last):
            typer.echo(f"{wanted.report.name} is about now: --from and --to change nothing", err=True)
        found = _ask(wanted)
        _write(out, found, form, file)


def _day(value: datetime | None) -> date | None:
    return value.date() if value else None


def _ask(wanted: Wanted) -> Result:
    from xml_pipeline.reports.query import checked, run_report
    from xml_pipeline.runtime import required_database_url, what_to_do
    from xml_pipeline.storage.database import Database

    wanted = checked(wanted)
    url = required_database_url()

    async def ask() -> Result:
        database = Database.connect(url, pool_size=1, application_name="report")
        try:
            async with database.snapshot() as connection:
                return await run_report(connection, wanted)
        finally:
            await database.close()

    with what_to_do("ORGANISM_DATABASE_URL"):
        return asyncio.run(ask())


def _write(out: Console, found: Result, form: Format, file: Path | None) -> None:
    from xml_pipeline.reports import formats

    content = _content(out, found, form, file)
    if content is None:
        return
    if file is not None:
        formats.write_file(file, content)
    elif isinstance(content, str):
        out.file.write(content)
    elif out.is_terminal:
        raise InvalidInput("Parquet is not for a terminal: name a file with --out")
    else:
        out.file.flush()
        typer.get_binary_stream("stdout").write(content)


def _content(out: Console, found: Result, form: Format, file: Path | None) -> str | bytes | None:
    """What is to be written as it is; None where the console has shown it."""
    from xml_pipeline.reports import chart, formats, svg, terminal

    match form:
        case Format.CSV:
            return formats.as_csv(found)
        case Format.JSON:
            return formats.as_json(found)
        case Format.PARQUET:
            return formats.as_parquet(found)
        case Format.CHART if file is not None or not out.is_terminal:
            return svg.as_svg(chart.chart_of(found))
        case Format.CHART:
            out.print(terminal.as_plot(chart.chart_of(found)))
        case Format.TABLE if file is not None or not out.is_terminal:
            return _printed(found)
        case Format.TABLE:
            out.print(terminal.as_table(found))
    return None


def _printed(found: Result) -> str:
    """The table, as wide as it has to be."""
    from io import StringIO

    from xml_pipeline.reports.terminal import as_table

    text = StringIO()
    Console(file=text, width=1000, highlight=False).print(as_table(found))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
