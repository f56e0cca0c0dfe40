"""`organism audit`: close the books, and say what differs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType

from xml_pipeline.terminal import views

if TYPE_CHECKING:
    from xml_pipeline.audit.model import Audit

EXIT_DIFFERENCES = 1
# Checks read everything once; on millions of events that takes longer than a service may wait.
_NO_LIMIT = None


def add_audit_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("audit", rich_help_panel=panel)
    def audit(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
        """Close the books: recompute holds, usage, sums, budgets and messages, and compare.

        Needs ORGANISM_DATABASE_URL alone, and no service; exits with 1 where anything differs. Open holds and parked
        messages are pending, and no differences.
        """
        found = asyncio.run(_audit())
        if as_json:
            views.print_json(out, audit_json(found))
        else:
            out.print(audit_view(found))
        if not found.clean:
            raise typer.Exit(EXIT_DIFFERENCES)


async def _audit() -> Audit:
    from xml_pipeline.audit.closing import close_books
    from xml_pipeline.runtime import SettingMissing, read_settings
    from xml_pipeline.storage.database import Database
    from xml_pipeline.storage.schema import require_current_schema

    url = read_settings().database_url
    if url is None:
        raise SettingMissing("ORGANISM_DATABASE_URL is not set, like postgresql://organism@127.0.0.1/organism")
    db = Database.connect(url, pool_size=1, application_name=f"organism-audit-{os.getpid()}", command_timeout=_NO_LIMIT)
    try:
        await require_current_schema(db)
        return await close_books(db)
    finally:
        await db.close()


def audit_view(audit: Audit) -> RenderableType:
    """The checks with what they found, the differences, and what is pending."""
    checks = views.table("check", "differences", "what is compared", numbers=["differences"])
    for finding in audit.findings:
        checks.add_row(finding.check.name, f"{finding.count:,}", finding.check.says)
    differences = views.table("check", "of", "expected", "found")
    for difference in (one for finding in audit.findings for one in finding.first):
        differences.add_row(difference.check, difference.key, difference.expected or "-", difference.found or "-")
    pending = audit.pending
    said = (
        f"pending: {pending.open_holds:,} open holds of {pending.held_tokens:,} tokens, "
        f"{pending.parked_messages:,} parked messages; overspent budgets: {pending.overspent_budgets:,}"
    )
    verdict = "the books are clean" if audit.clean else "the books differ"
    return Group(checks, *([] if audit.clean else [differences]), said, verdict)


def audit_json(audit: Audit) -> views.Json:
    """The same for programs."""
    return {
        "clean": audit.clean,
        "checks": [
            {
                "name": finding.check.name,
                "differences": finding.count,
                "first": [{"key": one.key, "expected": one.expected, "found": one.found} for one in finding.first],
            }
            for finding in audit.findings
        ],
        "pending": {
            "openHolds": audit.pending.open_holds,
            "heldTokens": audit.pending.held_tokens,
            "parkedMessages": audit.pending.parked_messages,
            "overspentBudgets": audit.pending.overspent_budgets,
        },
    }
