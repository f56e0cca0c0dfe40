"""A chart as SVG: one file that needs nothing else, with a value to read at every bar and point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from xml_pipeline.reports.chart import Bars, Chart, Lines, told

_WIDTH = 960
_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#db2777", "#65a30d", "#6b7280")
_BAR, _LABELS = 24, 300
_TOP, _LEFT, _RIGHT, _HEIGHT = 56, 80, 220, 340
_GRID_LINES = 4


def as_svg(chart: Chart) -> str:
    """The whole document."""
    body, height = (
        (_bars(chart), _bars_height(chart)) if isinstance(chart, Bars) else (_lines(chart), _TOP + _HEIGHT + 48)
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    title = _text(16, 28, chart.title, size=16)
    return "\n".join([head, ground, title, *body, "</svg>"]) + "\n"


def _bars_height(chart: Bars) -> int:
    return _TOP + max(1, len(chart.values)) * _BAR + (_BAR if chart.left_out else 0) + 16


def _bars(chart: Bars) -> Iterator[str]:
    if not chart.values:
        yield _text(16, _TOP + 12, "no data", colour="#6b7280")
        return
    widest = max(abs(value) for _, value in chart.values) or 1.0
    for number, (label, value) in enumerate(chart.values):
        y = _TOP + number * _BAR
        width = (_WIDTH - _LABELS - 120) * abs(value) / widest
        said = told(value, chart.unit)
        colour = _COLOURS[0] if value >= 0 else _COLOURS[1]
        yield _text(_LABELS - 8, y + 13, label, anchor="end", most=44)
        yield (
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR - 6}" fill="{colour}">'
            f"<title>{_safe(label)}: {_safe(said)}</title></rect>"
        )
        yield _text(_LABELS + width + 6, y + 13, said, colour="#374151")
    if chart.left_out:
        y = _TOP + len(chart.values) * _BAR
        yield _text(_LABELS, y + 13, f"and {chart.left_out:,} more", colour="#6b7280")


def _lines(chart: Lines) -> Iterator[str]:
    if not chart.days:
        yield _text(16, _TOP + 12, "no data", colour="#6b7280")
        return
    values = [value for line in chart.lines.values() for value in line]
    low, high = min(0.0, *values), max(0.0, *values)
    high = high if high > low else low + 1
    yield from _grid(chart, low, high)
    for number, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(_x(at, len(line)), _y(value, low, high)) for at, value in enumerate(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for (x, y), day, value in zip(points, chart.days, line, strict=True):
            said = " ".join(filter(None, (name, day.isoformat(), told(value, chart.unit))))
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{_safe(said)}</title></circle>'
        if name:
            yield _text(_WIDTH - _RIGHT + 16, _TOP + 12 + number * 20, name, colour=colour, most=30)


def _grid(chart: Lines, low: float, high: float) -> Iterator[str]:
    for number in range(_GRID_LINES + 1):
        value = low + (high - low) * number / _GRID_LINES
        y = _y(value, low, high)
        yield f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#e5e7eb"/>'
        yield _text(_LEFT - 8, y + 4, told(value, chart.unit), anchor="end", colour="#6b7280")
    for at in _ticks(len(chart.days)):
        x = _x(at, len(chart.days))
        yield _text(x, _TOP + _HEIGHT + 20, chart.days[at].isoformat(), anchor="middle", colour="#6b7280")


def _ticks(count: int) -> Iterable[int]:
    return sorted({round(number * (count - 1) / 5) for number in range(6)})


def _x(at: int, count: int) -> float:
    wide = _WIDTH - _RIGHT - _LEFT
    return _LEFT + (wide * at / (count - 1) if count > 1 else wide / 2)


def _y(value: float, low: float, high: float) -> float:
    return _TOP + _HEIGHT * (high - value) / (high - low)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#111827", size: int = 12, most: int = 200
) -> str:
    shown = text if len(text) <= most else f"{text[: most - 1]}…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{_safe(shown)}</text>'
    )


def _safe(text: str) -> str:
    """Text that XML can carry, whatever agents and models are called."""
    return escape("".join(letter if letter.isprintable() else "�" for letter in text))
