"""`organism`: run organisms, talk to them, look at them, write them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from xml_pipeline.errors import InvalidInput, InvalidOrganism, NotFound, XmlPipelineError
from xml_pipeline.exits import EXIT_INVALID, exit_status, explain
from xml_pipeline.terminal import views
from xml_pipeline.terminal.arguments import payload_of, tags_of
from xml_pipeline.terminal.audit import add_audit_command
from xml_pipeline.terminal.broker_setup import add_broker_setup_command
from xml_pipeline.terminal.budgets import add_budget_commands
from xml_pipeline.terminal.client import ApiRefused, client_of_environment
from xml_pipeline.terminal.database_setup import add_database_setup_command
from xml_pipeline.terminal.doctor import add_doctor_command
from xml_pipeline.terminal.keys import add_key_commands
from xml_pipeline.terminal.letters import add_letter_commands
from xml_pipeline.terminal.new_organism import first_steps, write_organism
from xml_pipeline.terminal.options import FileOption, JsonOption
from xml_pipeline.terminal.reports import add_report_command
from xml_pipeline.terminal.repricing import add_reprice_command
from xml_pipeline.terminal.setup import add_setup_command
from xml_pipeline.terminal.usage_archive import add_usage_commands

if TYPE_CHECKING:
    from xml_pipeline.runtime import Runtime

EXIT_FAILED = 1
LEVELS = ("debug", "info", "warning", "error")

app = typer.Typer(
    help="Organisms of LLM agents and tools that talk in typed XML envelopes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

LimitOption = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
OffsetOption = Annotated[int, typer.Option(min=0, help="How many to skip.")]
RUNNING, WRITING, TALKING = "Run", "Write", "Talk and look (ORGANISM_URL)"
ACCOUNTING = "Account (ORGANISM_DATABASE_URL)"


def main() -> None:
    """The entry point: an error that the system names is one clear line and an exit status."""
    _log_to_stderr()
    with _clear_errors():
        app()


def _log_to_stderr() -> None:
    """Standard output is what was asked for. Without this structlog writes there, and shows a traceback's variables."""
    from xml_pipeline.logs import configure_logging

    level = os.environ.get("ORGANISM_LOG_LEVEL", "")
    configure_logging(level if level in LEVELS else "warning", style="console")


@app.command(rich_help_panel=RUNNING)
def up(
    file: FileOption = None,
    host: Annotated[str | None, typer.Option(help="Listen here; else ORGANISM_HOST or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Else ORGANISM_PORT or the port in organism.yaml.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the embedded database is; else .organism beside organism.yaml.")
    ] = None,
) -> None:
    """Run an organism until Ctrl-C, with all that it needs.

    With ORGANISM_AMQP_URL and ORGANISM_DATABASE_URL it runs on those instead of its own.
    """
    from xml_pipeline.early_stop import end_at_once_when_asked

    end_at_once_when_asked()
    from xml_pipeline.runtime import read_settings, run_process

    changes: dict[str, Any] = {"file": file, "host": host, "port": port}
    if sys.stderr.isatty() and "ORGANISM_LOG_FORMAT" not in os.environ:
        changes["log_format"] = "console"
    if "ORGANISM_LOG_LEVEL" not in os.environ:
        changes["log_level"] = "warning"
    given = {name: value for name, value in changes.items() if value is not None}
    settings = read_settings().model_copy(update=given)

    async def run(runtime: Runtime) -> None:
        await _run_embedded(runtime, data)

    # Its own database gets the time that it needs to stop in order.
    run_process("organism", run, settings, stop_limit=None)


async def _run_embedded(runtime: Runtime, data: Path | None) -> None:
    from xml_pipeline.access.decisions import read_allowed_hosts
    from xml_pipeline.embedded import DATA_FOLDER, Place, run_embedded

    settings, organism = runtime.settings, runtime.load_organism()
    place = Place(
        host=settings.host,
        port=settings.port or organism.port,
        data=data or settings.file.absolute().parent / DATA_FOLDER,
        amqp_url=settings.amqp_url,
        database_url=settings.database_url,
        worker_processes=settings.worker_processes,
        pool_size=settings.pool_size,
        allowed_hosts=read_allowed_hosts(settings.allowed_hosts),
    )
    announcement = asyncio.create_task(_announce(organism.name, len(organism.listeners), place.url))
    try:
        await run_embedded(
            organism,
            place,
            stop=runtime.stop,
            instance=runtime.instance,
            health=runtime.health,
            metrics=runtime.metrics,
        )
    finally:
        announcement.cancel()
    out.print(Text("stopped; what was open goes on at the next start", style="dim"))


async def _announce(name: str, listeners: int, url: str) -> None:
    from xml_pipeline.terminal.readiness import wait_until_running

    await wait_until_running(url)
    out.print(Text.assemble((name, "bold"), f" runs at {url}", (f"  {views.count(listeners, 'listener')}", "dim")))
    out.print(Text("Ctrl-C stops it", style="dim"))


@app.command(rich_help_panel=RUNNING)
def migrate(
    to: Annotated[
        str | None, typer.Option(help="An older revision instead: what was added since is dropped, with its data.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Drop it; else it is only named.")] = False,
) -> None:
    """Bring the database of ORGANISM_DATABASE_URL to this version's schema, while services work.

    It can be repeated, also after it was killed.
    """
    from xml_pipeline.runtime import SettingMissing, read_settings, what_to_do
    from xml_pipeline.storage.schema import current_revision, taken_down
    from xml_pipeline.storage.schema import migrate as migrate_schema

    url = read_settings().database_url
    if url is None:
        raise SettingMissing("ORGANISM_DATABASE_URL is not set: the embedded database needs no migration by hand")
    if to == "base":
        raise InvalidInput("there is no revision base: drop the database to be rid of all that is in it")
    newest = to in {None, "head", current_revision()}
    with what_to_do("ORGANISM_DATABASE_URL"):
        gone = [] if newest else taken_down(url, str(to))
        for migration in gone:
            out.print(Text(f"goes, with its data: {migration}"), soft_wrap=True)
        if gone and not yes:
            raise InvalidInput("nothing is changed yet: stop the services of this version, then repeat it with --yes")
        migrate_schema(url, revision="head" if newest else str(to))
    if newest:
        out.print(f"the schema is current: {current_revision()}")
    else:
        out.print(f"the schema is that of revision {to}: services of its version run on it, and of no other")


@app.command(rich_help_panel=RUNNING)
def health(
    url: Annotated[str | None, typer.Argument(help="A gateway or an ops port; else that of ORGANISM_OPS_PORT.")] = None,
    live: Annotated[bool, typer.Option("--live/--ready", help="Whether it is alive, not whether it is ready.")] = False,
) -> None:
    """Ask a service how it is. Exits with 1 when it is not well."""
    from xml_pipeline.terminal.health import ask_health, ops_url

    well, said = ask_health(url or ops_url(os.environ), live=live)
    (out if well else err).print(said)
    if not well:
        raise typer.Exit(EXIT_FAILED)


@app.command(rich_help_panel=TALKING)
def inject(
    target: Annotated[str, typer.Argument(help="The listener.")],
    fields: Annotated[list[str] | None, typer.Argument(help="name=text or name:=json", metavar="NAME=VALUE...")] = None,
    json_payload: Annotated[
        str | None, typer.Option("--json-payload", help="The payload as JSON, @file, or - for standard input.")
    ] = None,
    thread: Annotated[str | None, typer.Option(help="The thread to go on with; else a new one.")] = None,
    wait: Annotated[float | None, typer.Option(min=0, help="Wait so many seconds for the answer.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key is accepted once.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, for a thread that begins: what it is counted under.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Send a message to a listener.

    Exits with 1 when no answer came in time, or the answer is an error.
    """
    payload = payload_of(fields or [], json_payload)
    tags = tags_of(tag) if tag else None
    answer = client_of_environment().inject(target, payload, thread=thread, key=key, wait=wait, tags=tags)
    reply = answer.get("reply")
    if as_json:
        views.print_json(out, answer)
    elif reply is not None:
        _print_reply(reply)
    else:
        out.print(Text.assemble(("thread  ", "dim"), answer["threadId"]))
        out.print(Text.assemble(("message ", "dim"), answer["messageId"]))
    if wait and reply is None:
        err.print(f"no answer within {wait:g} s: look with 'organism thread {answer['threadId']}'")
    if wait and (reply is None or views.is_error(reply)):
        raise typer.Exit(EXIT_FAILED)


def _print_reply(reply: views.Json) -> None:
    if views.is_error(reply):
        err.print(Text.assemble(("error  ", "bold red"), views.said(reply)))
        return
    out.print(views.answer_view(reply), soft_wrap=True)


@app.command(rich_help_panel=TALKING)
def threads(
    status: Annotated[str | None, typer.Option(help="active, completed, error or killed.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only those in which this listener takes part.")] = None,
    since: Annotated[str | None, typer.Option(help="Only those with activity since this ISO time.")] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """The threads, the latest first."""
    answer = client_of_environment().get(
        "/threads", status=status, agent=agent, since=since, limit=limit, offset=offset
    )
    _show(answer, views.threads_view(answer), as_json)


@app.command(rich_help_panel=TALKING)
def thread(
    thread_id: Annotated[str, typer.Argument(metavar="ID", help="The thread.")],
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """One thread and its latest messages."""
    client = client_of_environment()
    found = client.get(f"/threads/{thread_id}")
    earlier = max(0, found["messageCount"] - limit)
    history = client.get(f"/threads/{thread_id}/messages", limit=limit, offset=earlier)
    messages = sorted(history["messages"], key=lambda message: message["slotIndex"])
    _show({**found, "messages": messages}, views.thread_view(found, messages), as_json)


@app.command(rich_help_panel=TALKING)
def messages(
    agent: Annotated[str | None, typer.Option(help="Only those from or to this listener.")] = None,
    limit: LimitOption = 20,
    offset: OffsetOption = 0,
    as_json: JsonOption = False,
) -> None:
    """The messages of all threads."""
    answer = client_of_environment().get("/messages", agent=agent, limit=limit, offset=offset)
    _show(answer, views.messages_view(answer), as_json)


@app.command(rich_help_panel=TALKING)
def agents(as_json: JsonOption = False) -> None:
    """The listeners and what they do; agents are bold."""
    answer = client_of_environment().get("/agents")
    _show(answer, views.agents_view(answer), as_json)


add_database_setup_command(app, out, RUNNING)
add_broker_setup_command(app, out, RUNNING)
add_setup_command(app, out, RUNNING)
add_doctor_command(app, out, RUNNING)
add_letter_commands(app, out, TALKING)
add_budget_commands(app, out, TALKING)
add_key_commands(app, out, RUNNING)
add_audit_command(app, out, ACCOUNTING)
add_usage_commands(app, out, TALKING)
add_reprice_command(app, out, ACCOUNTING)
add_report_command(app, out, ACCOUNTING)


@app.command(rich_help_panel=WRITING)
def check(
    file: Annotated[
        Path | None, typer.Argument(help="The organism.yaml; else ORGANISM_FILE or ./organism.yaml.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Validate an organism.yaml: every fault and every doubt with its line. Exits with 2 when there is a fault."""
    from xml_pipeline.organism.load import load_with_warnings

    path = _file(file)
    try:
        loaded = load_with_warnings(path)
    except InvalidOrganism as error:
        if not as_json:
            raise
        views.print_json(out, {"valid": False, "faults": views.faults(error.faults)})
        raise typer.Exit(EXIT_INVALID) from error
    organism = loaded.organism
    if as_json:
        found = {"organism": organism.name, "listeners": list(organism.listeners)}
        views.print_json(out, {"valid": True, **found, "warnings": views.faults(loaded.warnings)})
        return
    for warning in loaded.warnings:
        err.print(Text.assemble(f"{warning.path}: ", ("warning: ", "yellow"), warning.message), soft_wrap=True)
    listeners = views.count(len(organism.listeners), "listener")
    out.print(Text.assemble((f"{path} is valid", "green"), f"  {organism.name}, {listeners}"))


@app.command(rich_help_panel=WRITING)
def schema(
    listener: Annotated[str, typer.Argument(help="The listener.")],
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """The XSD of what a listener takes."""
    from xml_pipeline.organism.load import load_organism

    organism = load_organism(_file(file))
    if listener not in organism.listeners:
        raise NotFound(f"there is no listener {listener}: there are {', '.join(sorted(organism.listeners))}")
    found = organism.listeners[listener]
    if as_json:
        views.print_json(out, {"listener": listener, "rootTag": found.root_tag, "schema": found.schema})
    else:
        out.file.write((found.schema or "").rstrip("\n") + "\n")


@app.command(rich_help_panel=WRITING)
def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")]) -> None:
    """Write a new organism that runs."""
    for path in write_organism(folder):
        out.print(Text.assemble(("wrote ", "dim"), str(path)), soft_wrap=True)
    run, then = first_steps(folder)
    out.print(Text(f"\n{run}\n", style="bold"), soft_wrap=True)
    out.print(Text.assemble(("and in another terminal: ", "dim"), then), soft_wrap=True)


def _file(given: Path | None) -> Path:
    from xml_pipeline.runtime import read_settings

    return given or read_settings().file


def _show(answer: object, view: RenderableType, as_json: bool) -> None:
    if as_json:
        views.print_json(out, answer)
    else:
        out.print(view)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except ApiRefused as refused:
        _say_and_exit(refused.lines, EXIT_FAILED)
    except XmlPipelineError as error:
        _say_and_exit(explain(error), exit_status(error))
    except BrokenPipeError:
        # Whoever read the output has read enough; nothing is left to be flushed at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _say_and_exit(lines: list[str], status: int) -> None:
    for line in lines:
        err.print(Text(line, style="red" if err.is_terminal else ""), soft_wrap=True)
    sys.exit(status)
