"""The commands about dead letters: list, look, redrive, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from xml_pipeline.terminal import views
from xml_pipeline.terminal.arguments import payload_of
from xml_pipeline.terminal.client import client_of_environment
from xml_pipeline.terminal.options import JsonOption

Json = Mapping[str, Any]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The dead letter.")]
_PATH = "/dead-letters"


def add_letter_commands(app: typer.Typer, out: Console, panel: str) -> None:
    """Add them to the command line; they print to `out`."""
    _add_looking(app, out, panel)
    _add_steering(app, out, panel)


def _add_looking(app: typer.Typer, out: Console, panel: str) -> None:
    @app.command("dead-letters", rich_help_panel=panel)
    def dead_letters(
        listener: Annotated[str | None, typer.Option(help="Only those to this listener.")] = None,
        thread: Annotated[str | None, typer.Option(help="Only those of this thread.")] = None,
        code: Annotated[str | None, typer.Option(help="Only those with this code, such as handler-failed.")] = None,
        redriven: Annotated[bool | None, typer.Option(help="Only those that were redriven, or were not.")] = None,
        since: Annotated[str | None, typer.Option(help="Only those written since this ISO time.")] = None,
        limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
        offset: Annotated[int, typer.Option(min=0, help="How many to skip.")] = 0,
        as_json: JsonOption = False,
    ) -> None:
        """What could not be delivered, the latest first."""
        wanted = {"listener": listener, "thread": thread, "code": code, "since": since}
        chosen = None if redriven is None else str(redriven).lower()
        answer = client_of_environment().get(_PATH, **wanted, redriven=chosen, limit=limit, offset=offset)
        _show(out, answer, letters_view(answer), as_json)

    @app.command("dead-letter", rich_help_panel=panel)
    def dead_letter(letter_id: IdArgument, as_json: JsonOption = False) -> None:
        """One dead letter with its content."""
        answer = client_of_environment().get(f"{_PATH}/{letter_id}")
        _show(out, answer, letter_view(answer), as_json)


def _add_steering(app: typer.Typer, out: Console, panel: str) -> None:
    @app.command("redrive", rich_help_panel=panel)
    def redrive(
        letter_id: IdArgument,
        fields: Annotated[
            list[str] | None,
            typer.Argument(help="A corrected payload: name=text or name:=json", metavar="NAME=VALUE..."),
        ] = None,
        payload: Annotated[
            str | None, typer.Option("--payload", help="A corrected payload as JSON, @file, or - for standard input.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Have a dead letter handled once more, in its thread, as it was or with a corrected payload.

        Fields that are given without --payload are the whole payload.
        """
        corrected = {"payload": payload_of(fields or [], payload)} if fields or payload is not None else {}
        answer = client_of_environment().post(f"{_PATH}/{letter_id}/redrive", corrected)
        view = Text.assemble(("thread  ", "dim"), answer["threadId"], ("\nmessage ", "dim"), answer["messageId"])
        _show(out, answer, view, as_json)

    @app.command("delete-dead-letter", rich_help_panel=panel)
    def delete_dead_letter(letter_id: IdArgument, as_json: JsonOption = False) -> None:
        """Delete a dead letter for good."""
        answer = client_of_environment().delete(f"{_PATH}/{letter_id}")
        _show(out, answer, Text.assemble(("deleted ", "dim"), letter_id), as_json)


def letters_view(answer: Json) -> RenderableType:
    """The dead letters, and how many more there are."""
    rows = views.table("dead letter", "listener", "code", "when", "redriven", "reason")
    # Whatever else has to be folded on a narrow terminal, an id can be copied.
    rows.columns[0].no_wrap = True
    for letter in answer["deadLetters"]:
        rows.add_row(
            letter["id"], letter["listener"] or "", Text(letter["code"], style="red"),
            Text(views.ago(letter["createdAt"]), style="dim"), _redriven(letter), Text(letter["reason"]),
        )  # fmt: skip
    return views.page(rows, answer, "dead letters")


def letter_view(letter: Json) -> RenderableType:
    """One dead letter, and what can be done about it."""
    head = Text.assemble((letter["id"], "bold"), "  ", (letter["code"], "red"))
    head.append(f"  {views.count(letter['attempts'], 'attempt')}, {views.ago(letter['createdAt'])}", style="dim")
    parts: list[RenderableType] = [head, Text(letter["reason"], style="red")]
    known = [name for name in ("listener", "threadId", "messageId", "redriveId") if letter[name]]
    parts.extend(Text.assemble((f"{name.removesuffix('Id'):9}", "dim"), letter[name]) for name in known)
    content = letter["xml"] if letter["xml"] is not None else f"{letter['body']}  (base64)"
    parts.append(Text(content))
    if letter["redrivable"]:
        parts.append(Text(f"organism redrive {letter['id']}", style="dim"))
    return Group(*parts)


def _redriven(letter: Json) -> Text:
    return Text(views.ago(letter["redrivenAt"]) if letter["redrivenAt"] else "", style="dim")


def _show(out: Console, answer: Json, view: RenderableType, as_json: bool) -> None:
    if as_json:
        views.print_json(out, answer)
    else:
        out.print(view, soft_wrap=isinstance(view, Text))
