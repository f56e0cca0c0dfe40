"""Reports on a terminal: a table, or a plot of blocks."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from xml_pipeline.reports.chart import Bars, Chart, Lines, told
from xml_pipeline.reports.definitions import Column, Kind
from xml_pipeline.reports.formats import plain
from xml_pipeline.reports.query import Result

_NUMBERS = (Kind.COUNT, Kind.MONEY, Kind.NUMBER)
_WIDEST = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
# What a cost is rounded to where people read it.
_MICRODOLLAR = Decimal("0.000001")


def as_table(result: Result) -> RenderableType:
    """All rows under their names; says so where there are none."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column in result.columns:
        right = column.kind in _NUMBERS
        table.add_column(column.name.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(Text(_shown(column, value)) for column, value in zip(result.columns, row, strict=True)))
    return table if result.rows else Group(table, Text("no rows", style="dim"))


def as_plot(chart: Chart) -> RenderableType:
    """Bars, or over days one bar for each; several lines are rows of blocks."""
    title = Text(chart.title, style="bold")
    if isinstance(chart, Lines) and len(chart.lines) > 1:
        return Group(title, _sparklines(chart))
    bars = chart if isinstance(chart, Bars) else _of_days(chart)
    if not bars.values:
        return Group(title, Text("no data", style="dim"))
    more = [Text(f"and {bars.left_out:,} more", style="dim")] if bars.left_out else []
    return Group(title, _bars(bars), *more)


def _of_days(chart: Lines) -> Bars:
    values = next(iter(chart.lines.values()), ())
    return Bars(chart.title, chart.unit, [(str(day), value) for day, value in zip(chart.days, values, strict=True)])


def _bars(bars: Bars) -> Table:
    rows = Table.grid(padding=(0, 1))
    widest = max(abs(value) for _, value in bars.values) or 1.0
    for label, value in bars.values:
        style = "cyan" if value >= 0 else "red"
        rows.add_row(Text(label), Text(_bar(abs(value) / widest), style=style), Text(told(value, bars.unit)))
    return rows


def _bar(share: float) -> str:
    eighths = round(share * _WIDEST * 8)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _sparklines(chart: Lines) -> Table:
    rows = Table.grid(padding=(0, 1))
    highest = max(max(line) for line in chart.lines.values()) or 1.0
    for name, line in chart.lines.items():
        blocks = "".join(_level(value / highest) for value in line)
        rows.add_row(Text(name), Text(blocks, style="cyan"), Text(told(sum(line), chart.unit)))
    rows.add_row("", Text(f"{chart.days[0]} to {chart.days[-1]}", style="dim"))
    return rows


def _level(share: float) -> str:
    return _LEVELS[max(0, min(7, round(share * 7)))]


def _shown(column: Column, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.kind is Kind.COUNT:
        return f"{value:,}"
    if isinstance(value, Decimal):
        return f"${value.quantize(_MICRODOLLAR):,f}" if column.kind is Kind.MONEY else plain(value)
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)
