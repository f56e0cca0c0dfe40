"""What the command line shows: calm tables, and values in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from xml_pipeline.errors import Fault

Json = Mapping[str, Any]

_STYLES = {
    "active": "cyan",
    "completed": "green",
    "error": "red",
    "killed": "dim",
    "idle": "dim",
    "processing": "cyan",
    "waiting": "yellow",
    "paused": "magenta",
}


def table(*columns: str, numbers: Iterable[str] = (), title: str | None = None) -> Table:
    """An empty table with a rule under its head and nothing else; `numbers` are set to the right."""
    made = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
        title=title, title_justify="left", title_style="bold", header_style="dim",
    )  # fmt: skip
    right = set(numbers)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def threads_view(answer: Json) -> RenderableType:
    """The threads, and how many more there are."""
    rows = table("thread", "status", "messages", "when", "participants", numbers=["messages"])
    # Whatever else has to be folded on a narrow terminal, an id can be copied.
    rows.columns[0].no_wrap = True
    for thread in answer["threads"]:
        participants = ", ".join(name for name in thread["participants"] if name != "api")
        rows.add_row(
            thread["id"], _state(thread["status"]), f"{thread['messageCount']:,}",
            Text(ago(thread["lastActivity"]), style="dim"), participants,
        )  # fmt: skip
    return page(rows, answer, "threads")


def thread_view(thread: Json, messages: Sequence[Json]) -> RenderableType:
    """One thread as the conversation that it is."""
    head = Text.assemble((thread["id"], "bold"), "  ", _state(thread["status"]))
    head.append(f"  {count(thread['messageCount'], 'message')}, {ago(thread['lastActivity'])}", style="dim")
    parts: list[RenderableType] = [head]
    if thread.get("error"):
        parts.append(Text(str(thread["error"]), style="red"))
    rows = table("#", "from", "to", "type", "payload", numbers=["#"])
    for message in messages:
        rows.add_row(str(message["slotIndex"]), message["from"], message["to"], _type(message), _fields(message))
    if 0 < len(messages) < thread["messageCount"]:
        parts.append(Text(f"the last {len(messages):,} of them", style="dim"))
    return Group(*parts, rows) if messages else Group(*parts)


def messages_view(answer: Json) -> RenderableType:
    """The latest messages."""
    rows = table("when", "thread", "from", "to", "type", "payload")
    for message in answer["messages"]:
        rows.add_row(
            Text(ago(message["timestamp"]), style="dim"), Text(message["threadId"][:8], style="dim"),
            message["from"], message["to"], _type(message), _fields(message),
        )  # fmt: skip
    return page(rows, answer, "messages")


def agents_view(answer: Json) -> RenderableType:
    """The listeners and what they do."""
    numbers = ("queue", "sent")
    rows = table("listener", "state", *numbers, "may reach", "description", numbers=numbers)
    for agent in answer["agents"]:
        name = Text(agent["name"], style="bold" if agent["isAgent"] else "")
        rows.add_row(
            name, _state(agent["state"]), f"{agent['queueDepth']:,}", f"{agent['messageCount']:,}",
            ", ".join(agent["peers"]), Text(agent["description"], style="dim"),
        )  # fmt: skip
    return rows


def usage_view(answer: Json) -> RenderableType:
    """Tokens and cost: by agent, by model, in all."""
    usage = answer["usage"]
    numbers = ("requests", "prompt", "completion", "total", "cost", "latency")
    rows = table("", *numbers, numbers=numbers)
    for title, key, group in (("by agent", "agentId", "byAgent"), ("by model", "model", "byModel")):
        rows.add_row(Text(title, style="dim"))
        for sums in usage[group]:
            rows.add_row(f"  {sums[key]}", *_sums(sums))
    rows.add_section()
    rows.add_row(Text("in all", style="bold"), *_sums(usage["totals"]))
    return rows


def answer_view(reply: Json) -> RenderableType:
    """What came back: an only text as it is, else its fields."""
    payload = reply["payload"]
    values = list(payload.values())
    if len(values) == 1 and isinstance(values[0], str):
        return Text(values[0])
    rows = Table.grid(padding=(0, 2))
    for name, value in payload.items():
        rows.add_row(Text(name, style="dim"), Text(_value(value)))
    return rows


def said(message: Json) -> Text:
    """A message's payload in one line."""
    return Text("  ").join([_type(message), _fields(message)])


def is_error(message: Json) -> bool:
    """Whether a message tells of a failure."""
    return message["payloadType"] in ("SystemError", "huh")


def short_type(payload_type: str) -> str:
    """The class of a payload, without the listener before it."""
    return payload_type.rpartition(".")[2]


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def ago(time: str | None, *, now: datetime | None = None) -> str:
    """A time in words that need no calendar."""
    if not time:
        return ""
    then = datetime.fromisoformat(time)
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def faults(found: Iterable[Fault]) -> list[Json]:
    """Faults as JSON tells them."""
    return [{"place": fault.path, "message": fault.message} for fault in found]


def print_json(console: Console, answer: object) -> None:
    """Plain JSON: what programs read."""
    console.file.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")


def _type(message: Json) -> Text:
    return Text(short_type(message["payloadType"]), style="red" if is_error(message) else "cyan")


def _fields(message: Json) -> Text:
    parts = [Text.assemble((f"{name}: ", "dim"), _value(value)) for name, value in message["payload"].items()]
    return Text("  ").join(parts)


def _sums(sums: Json) -> tuple[str, ...]:
    return (
        f"{sums['requestCount']:,}",
        f"{sums['promptTokens']:,}",
        f"{sums['completionTokens']:,}",
        f"{sums['totalTokens']:,}",
        f"${sums['totalCost']:,.6f}",
        f"{sums['avgLatencyMs']:,.1f} ms",
    )


def page(rows: Table, answer: Json, things: str) -> RenderableType:
    """One page of rows, and where it stands among all `things`."""
    if not answer["total"]:
        return Text(f"no {things}", style="dim")
    if answer["count"] == answer["total"]:
        return rows
    first = answer["offset"] + 1
    more = f"\n{first:,} to {answer['offset'] + answer['count']:,} of {answer['total']:,}: --limit, --offset"
    return Group(rows, Text(more, style="dim"))


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
