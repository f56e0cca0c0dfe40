"""The commands about budgets: what may be spent, and more of it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.terminal import views
from xml_pipeline.terminal.client import client_of_environment
from xml_pipeline.terminal.options import JsonOption

Json = views.Json
_NUMBERS = ("limit", "used", "held", "left", "percent")


def add_budget_commands(app: typer.Typer, out: Console, panel: str) -> None:
    """`organism budgets` and `organism top-up`."""

    @app.command(rich_help_panel=panel)
    def budgets(as_json: JsonOption = False) -> None:
        """What may be spent: by the organism, by tags, by threads; the highest share used first."""
        client = client_of_environment()
        shared, threads = client.get("/usage/budgets"), client.get("/usage/threads")
        if as_json:
            views.print_json(out, {**shared, "threads": threads["threads"]})
        else:
            out.print(budgets_view(shared, threads))

    @app.command("top-up", rich_help_panel=panel)
    def top_up(
        thread: Annotated[str, typer.Argument(metavar="THREAD", help="The thread.")],
        tokens: Annotated[int, typer.Argument(min=1, help="How many more it may use.")],
        key: Annotated[str | None, typer.Option(help="Idempotency key: the same key adds once.")] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Give a thread more tokens; what waits for them goes on."""
        answer = client_of_environment().top_up(thread, tokens, key=key)
        if as_json:
            views.print_json(out, answer)
        else:
            out.print(Text(f"{answer['remaining']:,} of {_limit(answer['maxTokens'])} tokens are left"), soft_wrap=True)


def budgets_view(shared: Json, threads: Json) -> RenderableType:
    """A row for each budget."""
    rows = views.table("", *_NUMBERS, numbers=_NUMBERS)
    rows.add_row(Text("the organism", style="bold"), *_row(shared["organism"]))
    for tag in shared["tags"]:
        rows.add_row(f"{tag['key']}={tag['value']}", *_row(tag))
    if not threads["threads"]:
        return Group(rows, Text("no thread has a budget yet", style="dim"))
    for thread in threads["threads"]:
        rows.add_row(Text(thread["threadId"], style="dim"), *_row(thread))
    return rows


def _row(budget: Json) -> tuple[str | Text, ...]:
    percent = Text(f"{budget['percentUsed']:.1f} %", style="red" if budget["isExhausted"] else "")
    held = f"{budget['heldTokens']:,}" if "heldTokens" in budget else ""
    left = "" if budget["maxTokens"] >= UNLIMITED else f"{budget['remaining']:,}"
    return _limit(budget["maxTokens"]), f"{budget['totalTokens']:,}", held, left, percent


def _limit(tokens: int) -> str:
    return "unlimited" if tokens >= UNLIMITED else f"{tokens:,}"
