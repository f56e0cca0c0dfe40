"""`organism audit`: close the books, and say what differs."""

from __future__ import annotations

import asyncio
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.exits import explain
from xml_pipeline.terminal import views

if TYPE_CHECKING:
    from xml_pipeline.audit.model import Audit

EXIT_DIFFERENCES = 1
EXIT_COULD_NOT_LOOK = 2


class Format(StrEnum):
    """How an audit is written."""

    TABLE = "table"
    JSON = "json"


def add_audit_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("audit", rich_help_panel=panel)
    def audit(
        form: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.TABLE,
        as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    ) -> None:
        """Close the books: recompute holds, usage, sums, budgets and messages, and compare.

        Needs ORGANISM_DATABASE_URL alone, and no service. Open holds and parked messages are pending, and no
        differences. Exits with 1 where anything differs, with 2 where it could not look.
        """
        found = _looked()
        if as_json or form is Format.JSON:
            views.print_json(out, audit_json(found))
        else:
            out.print(audit_view(found))
        if not found.clean:
            raise typer.Exit(EXIT_DIFFERENCES)


def _looked() -> Audit:
    """The audit; not to have looked is told apart from differences by the exit status."""
    try:
        return asyncio.run(_audit())
    except XmlPipelineError as error:
        for line in explain(error):
            typer.echo(line, err=True)
        raise typer.Exit(EXIT_COULD_NOT_LOOK) from error


async def _audit() -> Audit:
    from xml_pipeline.audit.closing import close_books
    from xml_pipeline.runtime import current_database, required_database_url

    url, name = required_database_url(), f"organism-audit-{os.getpid()}"
    # Checks read everything once; on millions of events that takes longer than a service may wait.
    async with current_database(url, name=name, pool_size=1, patient=True) as db:
        return await close_books(db)


def audit_view(audit: Audit) -> RenderableType:
    """The checks with what they found, the differences, what is pending and what is overspent."""
    checks = views.table("check", "differences", "what is compared", numbers=["differences"])
    for finding in audit.findings:
        checks.add_row(finding.check.name, f"{finding.count:,}", finding.check.says)
    parts: list[RenderableType] = [checks]
    if not audit.clean:
        parts.append(_differences(audit))
    if audit.overspent:
        parts.append(_overspent(audit))
    pending = audit.pending
    parts.append(
        f"pending: {views.count(pending.open_holds, 'open hold')} of {pending.held_tokens:,} tokens, "
        f"{pending.overdue_holds:,} of them overdue; {views.count(pending.parked_messages, 'parked message')} that "
        f"wait for {pending.parked_tokens:,} tokens"
    )
    parts.append(_verdict(audit))
    return Group(*parts)


def _differences(audit: Audit) -> RenderableType:
    table = views.table("check", "of", "expected", "found")
    for one in audit.differences:
        table.add_row(one.check, one.key, one.expected or "-", one.found or "-")
    return table


def _overspent(audit: Audit) -> RenderableType:
    table = views.table("overspent budget", "limit", "spent", numbers=["limit", "spent"])
    for one in audit.overspent:
        table.add_row(one.name, f"{one.limit:,}", f"{one.spent:,}")
    table.caption = f"{len(audit.overspent):,} of {audit.overspent_count:,}"
    return table


def _verdict(audit: Audit) -> RenderableType:
    at = f"{audit.at:%Y-%m-%d %H:%M:%S}"
    if audit.clean:
        return Text(f"the books were clean at {at}", style="green")
    shown = len(audit.differences)
    return Text(f"{views.count(audit.count, 'difference')} at {at}, {shown:,} shown", style="bold red")


def audit_json(audit: Audit) -> views.Json:
    """The same for programs."""
    return {
        "at": audit.at.isoformat(),
        "clean": audit.clean,
        "differences": audit.count,
        "checks": [
            {
                "name": finding.check.name,
                "differences": finding.count,
                "seconds": round(finding.seconds, 3),
                "first": [{"key": one.key, "expected": one.expected, "found": one.found} for one in finding.first],
            }
            for finding in audit.findings
        ],
        "pending": {
            "openHolds": audit.pending.open_holds,
            "heldTokens": audit.pending.held_tokens,
            "overdueHolds": audit.pending.overdue_holds,
            "parkedMessages": audit.pending.parked_messages,
            "parkedTokens": audit.pending.parked_tokens,
        },
        "overspent": {
            "count": audit.overspent_count,
            "first": [{"budget": one.name, "limit": one.limit, "spent": one.spent} for one in audit.overspent],
        },
    }
