"""What the system itself says to handlers: a hint about what was wrong, and an error that ends a call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Huh:
    """What you sent was not understood: `code` is for programs, `reason` is a short hint for whoever wrote it."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class SystemError:  # noqa: A001 - the name of the element on the wire
    """A request came to nothing: `code` is for programs, `message` for people."""

    code: str
    message: str
