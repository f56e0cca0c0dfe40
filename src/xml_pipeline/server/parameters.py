"""What comes with a request beside its body: paging, times, headers; each read in one place.

Coroutines, though none waits: FastAPI would hand plain functions to a thread, for each request.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Path, Query, Request
from pydantic import ValidationError

from xml_pipeline.errors import Fault
from xml_pipeline.server.budget_models import TopUpRequest
from xml_pipeline.server.models import ThreadStatus
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.usage_series import (
    DEFAULT_STEPS,
    GROUPS,
    MOST_STEPS,
    STEPS,
    SeriesQuery,
    Step,
    ceiling,
    floor,
)
from xml_pipeline.server.view import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, LetterQuery, Page, ThreadQuery

MAX_WAIT_SECONDS = 60.0
_MAX_KEY = 255
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d+)"?\s*(?:;.*)?', re.IGNORECASE)
_TOP_UP_SCHEMA = TopUpRequest.model_json_schema()
_Choice = TypeVar("_Choice", bound=str)
_STATUSES = [status.value for status in ThreadStatus]


async def page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="how many")] = DEFAULT_LIMIT,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="how many to leave out first")] = 0,
) -> Page:
    """Which part of a list."""
    return Page(limit, offset)


async def thread_query(
    status: Annotated[str | None, Query(json_schema_extra={"enum": list(_STATUSES)})] = None,
    agent: Annotated[str | None, Query(description="a participant")] = None,
    since: Annotated[str | None, Query(description="ISO 8601: last activity then or later; UTC if no zone")] = None,
) -> ThreadQuery:
    """Which threads."""
    return ThreadQuery(_status(status), agent, _time(since))


async def letter_query(
    listener: Annotated[str | None, Query(description="which it was for")] = None,
    thread: Annotated[str | None, Query(description="which it belonged to")] = None,
    code: Annotated[str | None, Query(description="why it could not be handled")] = None,
    redriven: Annotated[bool | None, Query(description="whether it was redriven")] = None,
    since: Annotated[str | None, Query(description="ISO 8601: written then or later; UTC if no zone")] = None,
) -> LetterQuery:
    """Which dead letters."""
    return LetterQuery(listener, thread, code, redriven, _time(since))


async def series_query(
    step: Annotated[str, Query(json_schema_extra={"enum": list(STEPS)})] = "hour",
    start: Annotated[
        str | None, Query(alias="from", description="ISO 8601; UTC if no zone; else 24 hours or 30 days ago")
    ] = None,
    end: Annotated[str | None, Query(alias="to", description="ISO 8601; UTC if no zone; else now")] = None,
    group_by: Annotated[str | None, Query(alias="groupBy", json_schema_extra={"enum": list(GROUPS)})] = None,
    agent: Annotated[str | None, Query(description="this one alone; not with groupBy=tag")] = None,
    model: Annotated[str | None, Query(description="this one alone")] = None,
    provider: Annotated[str | None, Query(description="this one alone")] = None,
) -> SeriesQuery:
    """Which usage over time, in whole steps."""
    chosen = _one_of("step", step, STEPS)
    group = None if group_by is None else _one_of("groupBy", group_by, GROUPS)
    if group == "tag" and agent is not None:
        raise Problem(
            400, "invalid-groupby", "usage by tag is not known by agent: leave out agent, or group by another"
        )
    given = {"agent": agent, "model": model, "provider": provider}
    filters = {name: value for name, value in given.items() if value is not None}
    first, last = _range(chosen, start, end)
    return SeriesQuery(first, last, chosen, group, filters)


def _one_of(name: str, value: str, choices: Collection[_Choice]) -> _Choice:
    for choice in choices:
        if choice == value:
            return choice
    raise Problem(400, f"invalid-{name.lower()}", f"{name} must be one of {', '.join(choices)}")


def _range(step: Step, start: str | None, end: str | None) -> tuple[datetime, datetime]:
    """Whole steps: all those of which a part is asked for."""
    try:
        last = ceiling(_series_time("to", end) or datetime.now(UTC), step)
        first = _series_time("from", start)
        first = floor(first, step) if first else last - DEFAULT_STEPS[step] * STEPS[step]
    except OverflowError:
        raise Problem(400, "invalid-range", "from and to are too near to the end of all time") from None
    if first >= last:
        raise Problem(400, "invalid-range", "from must be before to")
    if (last - first) // STEPS[step] > MOST_STEPS:
        text = f"from and to are more than {MOST_STEPS} {step}s apart: ask for less, or for step=day"
        raise Problem(400, "too-many-points", text)
    return first, last


def _series_time(name: str, value: str | None) -> datetime | None:
    try:
        return _parsed(value) if value is not None else None
    except (ValueError, OverflowError):
        raise Problem(400, "invalid-time", f"{name} is not an ISO 8601 time") from None


async def idempotency_key(
    value: Annotated[
        str | None, Header(alias="Idempotency-Key", description="the same key again: the same answer, nothing twice")
    ] = None,
) -> str | None:
    """The key, None where there is none or it is empty."""
    if value is not None and len(value) > _MAX_KEY:
        text = f"longer than {_MAX_KEY} characters"
        raise Problem(422, "invalid-input", f"Idempotency-Key: {text}", faults=[Fault("Idempotency-Key", text)])
    return value or None


async def top_up_request(request: Request) -> TopUpRequest:
    """The body of a top-up. Whatever is wrong with it is 400: what its key stands for is another matter, and 422."""
    try:
        return TopUpRequest.model_validate_json(await request.body())
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, what["loc"])) or "body"
        raise Problem(400, "invalid-top-up", f"{place}: {what['msg']}") from None


async def wait_seconds(
    prefer: Annotated[
        list[str] | None, Header(alias="Prefer", description="wait=N: answer with what comes back, N <= 60 seconds")
    ] = None,
) -> float:
    """How long the caller waits for what comes back; 0 where it did not say or what it said cannot be read."""
    parts = [part for value in prefer or [] for part in value.split(",")]
    found = next((match for match in map(_WAIT.fullmatch, parts) if match), None)
    return min(MAX_WAIT_SECONDS, float(found[1])) if found else 0.0


def _status(value: str | None) -> ThreadStatus | None:
    if value is None:
        return None
    if value not in _STATUSES:
        raise Problem(400, "invalid-status", f"status must be one of {', '.join(_STATUSES)}")
    return ThreadStatus(value)


def _time(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return _parsed(value)
    except (ValueError, OverflowError):
        fault = Fault("since", "is not an ISO 8601 time")
        raise Problem(422, "invalid-input", "since is not an ISO 8601 time", faults=[fault]) from None


def _parsed(value: str) -> datetime:
    # A plus that was not escaped in the query arrives as a space.
    parsed = datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", value))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


PageParameter = Annotated[Page, Depends(page)]
ThreadQueryParameter = Annotated[ThreadQuery, Depends(thread_query)]
LetterQueryParameter = Annotated[LetterQuery, Depends(letter_query)]
SeriesQueryParameter = Annotated[SeriesQuery, Depends(series_query)]
KeyParameter = Annotated[str | None, Depends(idempotency_key)]
TopUpParameter = Annotated[TopUpRequest, Depends(top_up_request)]
TOP_UP_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _TOP_UP_SCHEMA}}}}
TraceParameter = Annotated[
    str | None, Header(alias="traceparent", description="the caller's span, as W3C Trace Context has it")
]
WaitParameter = Annotated[float, Depends(wait_seconds)]
AgentFilter = Annotated[str | None, Query(description="sender or recipient")]
Name = Annotated[str, Path()]
