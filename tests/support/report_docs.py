"""docs/reports.md, made from the views themselves: `python -m tests.support.report_docs` writes it."""

from __future__ import annotations

import asyncio
from importlib import import_module
from io import StringIO
from pathlib import Path

from rich.console import Console
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tests.support import report_sample
from tests.support.postgres import start_postgres
from xml_pipeline.reports.definitions import REPORTS, Report
from xml_pipeline.reports.query import Wanted, run_report
from xml_pipeline.reports.terminal import as_table
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.schema import migrate

FILE = Path(__file__).resolve().parents[2] / "docs" / "reports.md"
MARK = "<!-- What follows is made by `python -m tests.support.report_docs`. -->\n"
VIEWS: dict[str, str] = import_module("xml_pipeline.storage.migrations.versions.0004_reports").VIEWS
# It counts days from today.
LATELY = "burn-rate"
DETAILS = ("usage_details", "tag_details", "latency_details")

_COLUMNS = text(
    """
    select attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
    from pg_attribute where attrelid = to_regclass(:view) and attnum > 0 order by attnum
    """
)


async def made(url: str) -> str:
    """The part of the file that is made, on an empty database with the current schema."""
    database = Database.connect(url)
    try:
        async with database.begin() as connection:
            await report_sample.fill(connection)
            parts = [await _report(connection, report) for report in REPORTS.values() if report.name != LATELY]
            details = [await _details(connection, view) for view in DETAILS]
            await report_sample.move_to_today(connection)
            parts += [await _report(connection, report) for report in REPORTS.values() if report.name == LATELY]
    finally:
        await database.close()
    return "\n".join([*parts, "## The views behind\n", *details])


async def _report(connection: AsyncConnection, report: Report) -> str:
    found = await run_report(connection, Wanted(report))
    shown = StringIO()
    Console(file=shown, width=1000, highlight=False).print(as_table(found))
    sample = "\n".join(line.rstrip() for line in shown.getvalue().splitlines())
    groups = ", ".join(f"`{column.name}`" for column in report.groups)
    grouped = f" Grouped by {', '.join(f'`{name}`' for name in report.by)}." if report.by else " A row for each."
    choice = f" `--group-by` takes {groups}." if groups else ""
    limit = f" At most {report.limit} rows unless `--limit` says otherwise." if report.limit else ""
    head = f"## {report.name}\n\n{report.title}.{grouped}{choice}{limit}\n"
    return f"{head}\n```\n$ organism report {report.name}\n{sample}\n```\n\n{await _view(connection, report.view)}"


async def _details(connection: AsyncConnection, view: str) -> str:
    return f"### {view}\n\n{await _view(connection, view)}"


async def _view(connection: AsyncConnection, view: str) -> str:
    rows = await connection.execute(_COLUMNS, {"view": f"reports.{view}"})
    columns = "\n".join(f"| `{name}` | {type_} | {comment} |" for name, type_, comment in rows)
    table = f"| column of `reports.{view}` | type | what |\n| --- | --- | --- |\n{columns}\n"
    return f"{table}\n```sql\n{VIEWS[view]}\n```\n"


def main() -> None:
    """Write the made part of the file anew."""
    databases = start_postgres(migrate=migrate)
    try:
        written = FILE.read_text().partition(MARK)[0]
        FILE.write_text(f"{written}{MARK}\n{asyncio.run(made(databases.create_database()))}")
    finally:
        databases.close()


if __name__ == "__main__":
    main()
