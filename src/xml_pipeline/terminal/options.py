"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="The organism.yaml; else ORGANISM_FILE or ./organism.yaml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ServiceOption = Annotated[
    list[str] | None, typer.Option(help="Only this one's user: gateway, router, usage, agent-worker. Repeat for more.")
]
ListenerOption = Annotated[
    list[str] | None, typer.Option(help="The user agent-worker reads this one's assignments alone. Repeat for more.")
]
PrefixOption = Annotated[str, typer.Option(help="In front of each user's name: users belong to the server.")]
