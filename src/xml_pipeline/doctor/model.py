"""What a doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """FAILED: something does not work, or soon will not. WARNING: somebody should look. SKIPPED: not looked at."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and, unless all is well, what to do about it."""

    check: str
    state: State
    said: str
    fix: str | None = None


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, said)


def warning(check: str, said: str, fix: str) -> Finding:
    """It works, and somebody should look."""
    return Finding(check, State.WARNING, said, fix)


def failed(check: str, said: str, fix: str) -> Finding:
    """It does not work, or soon will not."""
    return Finding(check, State.FAILED, said, fix)


def skipped(check: str, said: str, fix: str | None = None) -> Finding:
    """It was not looked at."""
    return Finding(check, State.SKIPPED, said, fix)
