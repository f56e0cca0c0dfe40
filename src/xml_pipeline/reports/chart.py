"""What a chart shows, however it is drawn: a bar for each row, or over days a line for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from xml_pipeline.reports.definitions import Kind
from xml_pipeline.reports.query import Result

MOST_BARS = 30
MOST_LINES = 8
OTHERS = "(others)"


@dataclass(frozen=True, slots=True)
class Bars:
    """Values by label. `left_out`: how many more rows there are."""

    title: str
    unit: str
    values: Sequence[tuple[str, float]]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Lines:
    """Values by day; each line has one for every day."""

    title: str
    unit: str
    days: Sequence[date]
    lines: Mapping[str, Sequence[float]]


Chart = Bars | Lines


def chart_of(result: Result) -> Chart:
    """Lines where it is grouped by day, else bars."""
    report = result.wanted.report
    names = [column.name for column in result.columns]
    charted = report.charted if report.charted in names else _first_number(result)
    title = f"{report.title}: {charted.replace('_', ' ')}"
    at = names.index(charted)
    unit = "USD" if result.columns[at].kind is Kind.MONEY else ""
    groups = [column.name for column in result.wanted.groups]
    if "day" in groups:
        return _lines(result, title, unit, at, [names.index(name) for name in groups if name != "day"])
    labels = [names.index(name) for name in groups or [report.label]]
    values = [(_label(row, labels), float(row[at] or 0)) for row in result.rows]
    return Bars(title, unit, values[:MOST_BARS], max(0, len(values) - MOST_BARS))


def _first_number(result: Result) -> str:
    return next(column.name for column in result.columns if column.kind in (Kind.COUNT, Kind.MONEY, Kind.NUMBER))


def _lines(result: Result, title: str, unit: str, at: int, labels: Sequence[int]) -> Lines:
    day = [column.name for column in result.columns].index("day")
    found: dict[str, dict[date, float]] = {}
    for row in result.rows:
        of_one = found.setdefault(_label(row, labels), {})
        of_one[row[day]] = of_one.get(row[day], 0.0) + float(row[at] or 0)
    days = _days([time for of_one in found.values() for time in of_one])
    lines = {name: [of_one.get(time, 0.0) for time in days] for name, of_one in found.items()}
    adds = result.columns[at].kind is not Kind.NUMBER
    return Lines(title, unit, days, _most(lines, adds=adds))


def _days(found: Sequence[date]) -> list[date]:
    """Every day from the first to the last, so that a day without usage is seen."""
    if not found:
        return []
    first, last = min(found), max(found)
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _most(lines: Mapping[str, Sequence[float]], *, adds: bool) -> dict[str, Sequence[float]]:
    """The largest, and all others as one where their values can be added up."""
    names = sorted(lines, key=lambda name: (-sum(lines[name]), name))
    kept: dict[str, Sequence[float]] = {name: lines[name] for name in names[:MOST_LINES]}
    others = [lines[name] for name in names[MOST_LINES:]]
    if others and adds:
        kept[OTHERS] = [sum(values) for values in zip(*others, strict=True)]
    return kept


def _label(row: Sequence[object], indexes: Sequence[int]) -> str:
    return " / ".join(str(row[index]) for index in indexes)


def told(value: float, unit: str = "") -> str:
    """A number that is short enough for an axis."""
    sign, value = ("-" if value < 0 else ""), abs(value)
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            divisor = 1e3 if letter == "k" else size
            return f"{sign}{_dollar(unit)}{value / divisor:.3g}{letter}"
    return f"{sign}{_dollar(unit)}{value:.4g}"


def _dollar(unit: str) -> str:
    return "$" if unit == "USD" else ""
