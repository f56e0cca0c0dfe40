"""`organism doctor`: what is wrong with broker and database, and what to do about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from xml_pipeline.doctor.model import Finding, State
from xml_pipeline.message_bus.rights import SERVICES
from xml_pipeline.terminal import views
from xml_pipeline.terminal.broker_setup import require_known
from xml_pipeline.terminal.database_setup import wanted_services
from xml_pipeline.terminal.options import FileOption, JsonOption, ListenerOption, PrefixOption, ServiceOption

if TYPE_CHECKING:
    from xml_pipeline.doctor.examination import Patient

EXIT_FAILED = 1
_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.SKIPPED: "dim"}


def add_doctor_command(app: typer.Typer, out: Console, panel: str) -> None:
    """Add it to the command line; it prints to `out`."""

    @app.command("doctor", rich_help_panel=panel)
    def doctor(
        file: FileOption = None,
        management: Annotated[
            str | None,
            typer.Option(
                help="http://admin@host:15672, for alarms, rights, the broker's clock; the AMQP URL has the password."
            ),
        ] = None,
        prefix: PrefixOption = "",
        service: ServiceOption = None,
        listener: ListenerOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Look at the broker of ORGANISM_AMQP_URL and the database of ORGANISM_DATABASE_URL, or at one of them.

        It changes nothing. Exits with 1 where a check failed, with 2 where it does not know what to look at.
        """
        from xml_pipeline.doctor.examination import examine

        whose = Whose(prefix, wanted_services(service, SERVICES), tuple(listener) if listener else None)
        findings = asyncio.run(examine(_patient(file, management, whose)))
        if as_json:
            views.print_json(out, findings_json(findings))
        else:
            out.print(findings_view(findings), soft_wrap=True)
        if any(finding.state is State.FAILED for finding in findings):
            raise typer.Exit(EXIT_FAILED)


class Whose(NamedTuple):
    """The users to look at: `prefix` begins their names; `reads`: the listeners that agent-worker reads alone."""

    prefix: str
    services: tuple[str, ...]
    reads: tuple[str, ...] | None


def _patient(file: Path | None, management: str | None, whose: Whose) -> Patient:
    from xml_pipeline.doctor.examination import Patient
    from xml_pipeline.message_bus.management import with_login_of
    from xml_pipeline.organism.load import load_organism
    from xml_pipeline.runtime import SettingMissing, read_settings

    settings = read_settings()
    if settings.amqp_url is None and settings.database_url is None:
        raise SettingMissing("neither ORGANISM_AMQP_URL nor ORGANISM_DATABASE_URL is set: there is nothing to look at")
    if settings.amqp_url is None:
        if management is not None or whose.reads is not None:
            raise SettingMissing("--management and --listener take ORGANISM_AMQP_URL, too: they are about its broker")
        return Patient(settings.database_url, prefix=whose.prefix, services=whose.services)
    organism = load_organism(file or settings.file)
    management = with_login_of(management, settings.amqp_url) if management else None
    listeners = tuple(organism.listeners)
    require_known(whose.reads or (), listeners)
    return Patient(settings.database_url, settings.amqp_url, management, organism.name, listeners, *whose)


def findings_view(findings: Sequence[Finding]) -> RenderableType:
    """A line for each check, below it what to do."""
    lines: list[RenderableType] = []
    for finding in findings:
        mark = (f"{finding.state:<8}", _STYLES[finding.state])
        lines.append(Text.assemble(mark, (f" {finding.check:<28} ", ""), finding.said))
        if finding.fix is not None:
            lines.append(Text.assemble(" " * 9, ("do: ", "dim"), finding.fix))
    return Group(*lines, _verdict(findings))


def _verdict(findings: Sequence[Finding]) -> Text:
    counted = Counter(finding.state for finding in findings)
    said = ", ".join(f"{counted[state]} {state}" for state in State if counted[state])
    return Text(said, style=_STYLES[State.FAILED if counted[State.FAILED] else State.OK])


def findings_json(findings: Sequence[Finding]) -> views.Json:
    """The same for programs."""
    return {
        "healthy": all(finding.state is not State.FAILED for finding in findings),
        "findings": [
            {"check": one.check, "state": one.state.value, "said": one.said, "fix": one.fix} for one in findings
        ],
    }
