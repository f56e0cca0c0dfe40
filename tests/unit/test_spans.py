"""Spans of time as they are written on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.terminal.spans import read_span


@pytest.mark.parametrize(
    ("since", "until", "span"),
    [
        ("2026-03-01", "2026-03-01", (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))),
        ("2026-02-27", "2026-02-28", (datetime(2026, 2, 27, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))),
        (
            "2026-03-01T12:00",
            "2026-03-01T13:30:00+01:00",
            (datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, 30, tzinfo=UTC)),
        ),
    ],
)
def test_a_day_is_a_whole_day_and_a_time_is_excluded(since: str, until: str, span: tuple[datetime, datetime]) -> None:
    assert read_span(since, until) == span


@pytest.mark.parametrize(
    ("since", "until", "complaint"),
    [
        ("yesterday", "2026-03-01", "--from must be a day"),
        ("2026-03-01", "2026-13-01", "--to must be a day"),
        ("2026-03-02", "2026-03-01", "is not before"),
        ("2026-03-01T10:00", "2026-03-01T10:00", "is not before"),
        ("2026-03-01", "9999-12-31", "too late"),
    ],
)
def test_what_is_wrong_is_told(since: str, until: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        read_span(since, until)
