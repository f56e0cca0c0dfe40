"""What is told of runs: a line each, their findings, a closing line that can be counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.chaos.run import Report

_MOST_FINDINGS = 12
_MOST_EXPIRED = 6
_COLUMNS = (
    ("fault", -32),
    ("seed", 5),
    ("ok", 6),
    ("unknown", 8),
    ("happened", 9),
    ("lost", 5),
    ("doubled", 8),
    ("tokens", 9),
    ("off", 5),
    ("measured", 9),
    ("expired", 8),
    ("reruns", 7),
    ("restarts", 9),
    ("recovery", 9),
    ("gap", 7),
    ("drain", 7),
    ("took", 6),
    ("", 7),
)
HEAD = "".join(f"{name:>{width}}" if width > 0 else f"{name:<{-width}}" for name, width in _COLUMNS)


def row(report: Report) -> str:
    """One run in one line."""
    return "".join(
        f"{value:>{width}}" if width > 0 else f"{value:<{-width}}"
        for value, (_, width) in zip(_values(report), _COLUMNS, strict=True)
    )


def _values(report: Report) -> tuple[object, ...]:
    verdict = report.verdict
    return (
        report.fault,
        report.seed,
        verdict.accepted,
        verdict.unknown,
        verdict.unknown_happened,
        len(verdict.lost),
        len(verdict.doubled),
        verdict.tokens_expected,
        verdict.tokens_booked - verdict.tokens_expected,
        verdict.measured,
        verdict.expired,
        verdict.reruns + verdict.extra_calls,
        report.restarts,
        _seconds(report.recovery),
        _seconds(report.gap),
        _seconds(report.drain),
        f"{report.seconds:.0f} s",
        "" if report.passed else "FAILED",
    )


def markdown(reports: Sequence[Report]) -> Iterator[str]:
    """The runs as lines of a table for docs/reliability.md."""
    names = [name or "kept" for name, _ in _COLUMNS]
    yield f"| {' | '.join(names)} |"
    yield f"| {' | '.join('---' if name == 'fault' else '---:' for name in names)} |"
    for report in reports:
        yield f"| {' | '.join(map(str, (*_values(report)[:-1], 'yes' if report.passed else 'NO')))} |"


def findings(report: Report) -> Iterator[str]:
    """What was found, and how to see it again."""
    verdict = report.verdict
    for title, found in (("lost", verdict.lost), ("doubled", verdict.doubled), ("off", verdict.off)):
        for line in found[:_MOST_FINDINGS]:
            yield f"{title}: {line}"
        if len(found) > _MOST_FINDINGS:
            yield f"{title}: and {len(found) - _MOST_FINDINGS} more"
    if report.drain is None:
        yield "it never came to its end"
    if not report.in_time:
        yield f"turns came late: the target is {report.target:g} s, beside {report.outage:.1f} s of outage"
    yield from report.notes
    yield from _expired(verdict.expired_rows)
    if not report.passed:
        yield f"again: make chaos FAULT={report.fault} SEED={report.seed} RATE={report.rate:.1f}"


def _expired(rows: Sequence[str]) -> Iterator[str]:
    for line in rows[:_MOST_EXPIRED]:
        yield f"expired: {line}"
    if len(rows) > _MOST_EXPIRED:
        yield f"expired: and {len(rows) - _MOST_EXPIRED} more, in expired.txt of the run's folder (KEEP)"


def closing(reports: Sequence[Report]) -> str:
    """How many kept their promises."""
    failed = sum(not one.passed for one in reports)
    return f"chaos: {len(reports) - failed} passed, {failed} failed"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
