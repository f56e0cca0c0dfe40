"""What can be seen of a database from outside, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from xml_pipeline.storage.rights import group_of


class Right(NamedTuple):
    """One right on a table, or on one column of it."""

    table: str
    privilege: str
    column: str | None = None

    def __str__(self) -> str:
        return f"{self.privilege} on {self.table}{'.' + self.column if self.column else ''}"


class Differing(NamedTuple):
    """A right that a group or a user lacks (`missing`), or has beyond what it needs."""

    role: str
    right: Right
    missing: bool


@dataclass(frozen=True, slots=True)
class UserFacts:
    """A user of the database: whether it may manage the server, whose groups it is in, its wrong rights on tables."""

    powerful: bool
    groups: tuple[str, ...]
    differing: tuple[Differing, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What PostgreSQL shows. None is what the user may not see; beyond `known` all is empty with another schema.

    `skew`: seconds by which the database's clock is ahead of this machine's, give or take `skew_error`.
    `letters`: dead letters that nobody redrove, and when the first was written. `untaken`: injects that no router took,
    and for how many seconds the oldest waits. `unpriced`: model, provider and calls of the last seven days.
    """

    place: str
    version: str
    needed: str | None
    found: frozenset[str]
    known: bool
    skew: float
    skew_error: float
    missing_months: tuple[str, ...] = ()
    letters: tuple[int, datetime | None] | None = None
    untaken: tuple[int, float] | None = None
    unpriced: tuple[tuple[str, str, int], ...] | None = None
    missing_groups: tuple[str, ...] = ()
    differing: tuple[Differing, ...] = ()
    users: Mapping[str, UserFacts] = field(default_factory=dict)

    @property
    def current(self) -> bool:
        """Whether the schema is this version's."""
        return self.found == {self.needed}


def user_is_fit(facts: UserFacts, service: str) -> bool:
    """Whether a service's user is in its group alone, and does not manage the server."""
    return not facts.powerful and facts.groups == (group_of(service),)
