"""Spans of time on the command line: from a day or time, to a day or time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from xml_pipeline.errors import InvalidInput


def read_span(since: str, until: str) -> tuple[datetime, datetime]:
    """From the beginning of `since` to before `until`, in UTC unless they name a zone; a day ends with its last moment.

    Raises InvalidInput.
    """
    begin, end = _read(since, "--from"), _read(until, "--to", whole_day=True)
    if begin >= end:
        raise InvalidInput(f"--from {since} is not before --to {until}")
    return begin, end


def _read(value: str, option: str, *, whole_day: bool = False) -> datetime:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return _read_time(value, option)
    try:
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return midnight + timedelta(days=1) if whole_day else midnight
    except OverflowError:
        raise InvalidInput(f"{option} {value} is too late") from None


def _read_time(value: str, option: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"{option} must be a day like 2026-03-01 or a time like 2026-03-01T12:00:00Z, not {value!r}"
        raise InvalidInput(message) from None
