"""What closing the books says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """A statement whose rows are differences: `key`, `expected`, `found`; no row: it is as it should be."""

    name: str
    says: str
    statement: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not what it is recomputed to be."""

    check: str
    key: str
    expected: str | None
    found: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: how many differences, and the first of them."""

    check: Check
    count: int
    first: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """What is under way, and no difference: open holds, parked messages, and budgets that were overspent.

    Overspent is a budget whose calls used more than they had asked for, or whose limit was lowered.
    """

    open_holds: int
    held_tokens: int
    parked_messages: int
    overspent_budgets: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The books at one instant."""

    findings: tuple[Finding, ...]
    pending: Pending

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not any(finding.count for finding in self.findings)
