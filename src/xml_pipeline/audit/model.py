"""What closing the books says."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from xml_pipeline.errors import XmlPipelineError


class BooksUnreadable(XmlPipelineError):
    """The database does not let this user read all that the books are closed from."""

    code = "books-unreadable"


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
    """What one check found: how many differences, and the first of them. `seconds`: how long it took."""

    check: Check
    count: int
    first: tuple[Difference, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Pending:
    """What is under way, and no difference: usage that is not booked yet has an open hold, or its message is parked.

    `overdue_holds`, among the open ones, are waited for no more: the next sweep of a usage service books them.
    """

    open_holds: int
    held_tokens: int
    overdue_holds: int
    parked_messages: int
    parked_tokens: int


@dataclass(frozen=True, slots=True)
class Overspent:
    """A budget above its limit: its calls used more than they had asked for, or the limit was lowered. In tokens."""

    name: str
    limit: int
    spent: int


@dataclass(frozen=True, slots=True)
class Audit:
    """The books as they were `at` one instant, by the database's clock.

    `overspent`: the first of `overspent_count`, those furthest above their limit first.
    """

    at: datetime
    findings: tuple[Finding, ...]
    pending: Pending
    overspent_count: int
    overspent: tuple[Overspent, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not self.count

    @property
    def count(self) -> int:
        """How many differences there are."""
        return sum(finding.count for finding in self.findings)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The first differences of each check."""
        return tuple(one for finding in self.findings for one in finding.first)
