"""What a proxy can be told, and what it counts. One fault holds at a time: a new one replaces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter


@dataclass(frozen=True, slots=True)
class PassThrough:
    """No fault: everything that was held goes on."""

    name: Literal["pass_through"] = "pass_through"


@dataclass(frozen=True, slots=True)
class Blackhole:
    """Connections stay open and nothing passes; new ones are accepted and never answered.

    What was sent meanwhile passes when the fault is over, as a network that heals delivers what was not acknowledged.
    """

    name: Literal["blackhole"] = "blackhole"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: a new connection is refused, those that are open go on."""

    name: Literal["refuse"] = "refuse"


@dataclass(frozen=True, slots=True)
class Delay:
    """Every byte is late by so many seconds, each way."""

    seconds: float
    name: Literal["delay"] = "delay"


@dataclass(frozen=True, slots=True)
class SwallowConfirms:
    """The broker's acks and nacks of publishes vanish; then all connections are reset and the fault is over.

    That is after `count` of them, or after so many `seconds`, whatever comes first.
    """

    count: int | None
    seconds: float | None
    name: Literal["swallow_confirms"] = "swallow_confirms"


@dataclass(frozen=True, slots=True)
class CutCommits:
    """Every so many-th COMMIT's connection is reset.

    `before`: the COMMIT never arrives. `after`: the server commits, and its answer never arrives.
    """

    every: int
    moment: Literal["before", "after"]
    name: Literal["cut_commits"] = "cut_commits"


@dataclass(frozen=True, slots=True)
class Cut:
    """Reset every connection, once; the fault that holds goes on."""

    name: Literal["cut"] = "cut"


@dataclass(frozen=True, slots=True)
class Report:
    """Change nothing, tell the counters."""

    name: Literal["report"] = "report"


@dataclass(slots=True)
class Stats:
    """Counters since the proxy's start, and the fault that holds."""

    fault: str = "pass_through"
    connections: int = 0  # accepted
    open_connections: int = 0
    bytes_to_server: int = 0
    bytes_to_client: int = 0
    swallowed_confirms: int = 0
    dropped_commits: int = 0
    swallowed_commits: int = 0
    resets: int = 0  # connections


Fault = PassThrough | Blackhole | Refuse | Delay | SwallowConfirms | CutCommits
Command = Fault | Cut | Report
Wire = Literal["amqp", "postgresql", "bytes"]

COMMAND: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="name")])
STATS: TypeAdapter[Stats] = TypeAdapter(Stats)
