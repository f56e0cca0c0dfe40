"""A report's rows: one statement on its view, by day and grouped as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import InvalidInput, Refused, SchemaOutdated
from xml_pipeline.reports.definitions import Column, Kind, Report

_UNKNOWN_VIEW = ("3F000", "42P01", "42703")
_NOT_ALLOWED = "42501"
# Several processes on one index read far beyond the first rows, which are all that is wanted.
_ONE_PROCESS = text("set local max_parallel_workers_per_gather = 0")
# Of the histogram's buckets, how many calls are in those up to each, and in all.
_COUNTED = """
    (select {groups}, up_to_ms, sum(requests) over (partition by {groups} order by bucket) as so_far,
            sum(requests) over (partition by {groups}) as in_all
       from (select {groups}, bucket, up_to_ms, sum(requests) as requests from reports.{view}{where}
              group by {groups}, bucket, up_to_ms) as buckets) as counted
"""


class NotAllowed(Refused):
    """The database's user may not read the reports."""

    code = "reports-not-allowed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of a report: days in UTC, both included; how it is grouped, and how many rows at most.

    `by`: None groups as the report does by itself.
    """

    report: Report
    first: date | None = None
    last: date | None = None
    by: tuple[str, ...] | None = None
    limit: int | None = None

    @property
    def groups(self) -> tuple[Column, ...]:
        """The columns that it is grouped by; none lists the view's rows. Raises InvalidInput."""
        return tuple(self.report.group(name) for name in (self.report.by if self.by is None else self.by))


@dataclass(frozen=True, slots=True)
class Result:
    """What a report says. Rows have the values of `columns`; days and times are in UTC, money is Decimal."""

    wanted: Wanted
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]


def checked(wanted: Wanted) -> Wanted:
    """The same without repeated groups, and without days where it is about now. Raises InvalidInput."""
    if wanted.first and wanted.last and wanted.first > wanted.last:
        raise InvalidInput(f"--from {wanted.first} is after --to {wanted.last}")
    if wanted.report.range is None:
        wanted = replace(wanted, first=None, last=None)
    if wanted.by is not None:
        wanted = replace(wanted, by=tuple(dict.fromkeys(wanted.by)))
    _ = wanted.groups
    return wanted


async def run_report(connection: AsyncConnection, wanted: Wanted) -> Result:
    """Ask for a report. Raises InvalidInput, SchemaOutdated where there are no reports, NotAllowed."""
    wanted = checked(wanted)
    columns = columns_of(wanted)
    try:
        await connection.execute(_ONE_PROCESS)
        found = await connection.execute(text(statement_of(wanted)), _parameters(wanted))
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state in _UNKNOWN_VIEW:
            raise SchemaOutdated("the database has no such report yet: run 'organism migrate'") from error
        if state == _NOT_ALLOWED:
            raise NotAllowed(
                "the database's user may not read the reports: grant it the role organism_reports"
            ) from error
        raise
    return Result(wanted, columns, [tuple(row) for row in found])


def columns_of(wanted: Wanted) -> tuple[Column, ...]:
    """The columns of the answer: first what it is grouped by, then what can be summed up."""
    groups = wanted.groups
    if not groups:
        return wanted.report.columns
    return (*groups, *(column for column in wanted.report.columns if column.total))


def statement_of(wanted: Wanted) -> str:
    """The SQL, with parameters `first`, `last` and `most`."""
    report, where = wanted.report, _where(wanted)
    if not wanted.groups:
        selected = ", ".join(map(_listed, report.columns))
        return f"select {selected} from reports.{report.view}{where} order by {report.order} limit :most"  # noqa: S608
    names = [column.name for column in wanted.groups]
    groups = ", ".join(names)
    totals = ", ".join(f"{column.total} as {column.name}" for column in report.columns if column.total)
    source = f"reports.{_source(wanted)}{where}"
    if report.details == "latency_details":
        source = _COUNTED.format(groups=groups, view=report.details, where=where)
    return f"select {groups}, {totals} from {source} group by {groups} order by {_order(wanted)} limit :most"  # noqa: S608


def _listed(column: Column) -> str:
    return f"cast({column.name} as text)" if column.kind is Kind.TEXT else column.name


def _source(wanted: Wanted) -> str:
    """The report's own view where it has what is asked for."""
    report = wanted.report
    own = {"day", *report.by}
    inside = all(column.name in own for column in wanted.groups)
    return report.view if inside or report.details is None else report.details


def _order(wanted: Wanted) -> str:
    names = [column.name for column in wanted.groups]
    if "day" in names:
        return ", ".join(["day", *(name for name in names if name != "day")])
    order = wanted.report.order if wanted.report.by else f"{_largest(wanted.report)} desc"
    return ", ".join([order, *names])


def _largest(report: Report) -> str:
    sums = [column.name for column in report.columns if column.total]
    return report.charted if report.charted in sums else sums[0]


def _where(wanted: Wanted) -> str:
    column, limits = wanted.report.range, []
    if wanted.first is not None:
        limits.append(f"{column} >= :first")
    if wanted.last is not None:
        limits.append(f"{column} {'<=' if column == 'day' else '<'} :last")
    return f" where {' and '.join(limits)}" if limits else ""


def _parameters(wanted: Wanted) -> dict[str, object]:
    by_day = wanted.report.range == "day"
    listed = not wanted.groups
    found: dict[str, object] = {"most": wanted.limit or (wanted.report.limit if listed else None)}
    if wanted.first is not None:
        found["first"] = wanted.first if by_day else _midnight(wanted.first)
    if wanted.last is not None:
        found["last"] = wanted.last if by_day else _midnight(wanted.last + timedelta(days=1))
    return found


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
