"""Errors as RFC 9457 problem+json: each with a stable `code`, a `detail` that is a string, and `errors` for faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from xml_pipeline.errors import Fault, InvalidInput, InvalidPayload, NotFound, Refused, Unavailable, XmlPipelineError
from xml_pipeline.server.budget_models import BudgetProblem
from xml_pipeline.server.models import ProblemInfo

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
# Past this many the caller has enough to go on, and the answer stays small.
_MAX_FAULTS = 100
_HTTP_CODES = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-input",
}


class Problem(HTTPException):
    """A failure with its status and stable code. An HTTPException, so that FastAPI lets it pass from body reading."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        """`members` are told beside those of every problem."""
        super().__init__(status, detail, dict(headers) if headers else None)
        self.code = code
        self.faults = tuple(faults)
        self.members = dict(members or {})


def problem_response(problem: Problem) -> JSONResponse:
    """The answer that tells of a problem."""
    body: dict[str, Any] = {
        **problem.members,
        "type": f"urn:xml-pipeline:problem:{problem.code}",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": str(problem.detail),
        "code": problem.code,
    }
    if problem.faults or problem.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        body["errors"] = [
            {"path": printable(fault.path), "message": printable(fault.message)}
            for fault in problem.faults[:_MAX_FAULTS]
        ]
    body["detail"] = printable(body["detail"])
    return JSONResponse(body, problem.status_code, problem.headers, MEDIA_TYPE)


def problem_of(error: XmlPipelineError) -> Problem:
    """The problem that stands for one of the system's own errors."""
    match error:
        case InvalidPayload():
            return Problem(422, error.code, "the payload does not fit its schema", faults=error.faults)
        case InvalidInput():
            return Problem(422, error.code, str(error), faults=[Fault("", str(error))])
        case NotFound():
            return Problem(404, error.code, str(error))
        case Refused():
            return Problem(409, error.code, str(error))
        case Unavailable():
            # Where it is that does not answer stands in the log: callers need not know.
            detail = f"a part that is needed does not answer; try again in {RETRY_AFTER_SECONDS} seconds"
            return Problem(503, error.code, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        case _:
            return Problem(500, error.code, "internal error")


def validation_problem(error: RequestValidationError) -> Problem:
    """FastAPI's own findings: bytes that are no JSON are 400, a value of the wrong type or range 422."""
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Problem(400, "invalid-json", "the body is not JSON")
    faults = [Fault(_path(item["loc"]), str(item["msg"])) for item in found]
    return Problem(422, "invalid-input", "; ".join(f"{f.path}: {f.message}" for f in faults[:5]), faults=faults)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of the app a problem document."""

    @app.exception_handler(StarletteHTTPException)
    async def on_http(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return problem_response(error if isinstance(error, Problem) else _from_http(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(validation_problem(error))

    @app.exception_handler(XmlPipelineError)
    async def on_error(request: Request, error: XmlPipelineError) -> JSONResponse:
        problem = problem_of(error)
        if problem.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("api.failed", path=request.url.path, code=problem.code, error=str(error))
        return problem_response(problem)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        log.error("api.crashed", path=request.url.path, exc_info=error)
        return problem_response(Problem(500, "internal", "internal error"))


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI."""
    return {
        status: {"model": ProblemInfo, "description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {}}}
        for status in statuses
    }


# What the answer to an inject is when nothing is left to be spent.
BUDGET_EXHAUSTED: dict[int | str, dict[str, Any]] = {
    402: {"model": BudgetProblem, "description": HTTPStatus(402).phrase, "content": {MEDIA_TYPE: {}}}
}


def _from_http(error: StarletteHTTPException) -> Problem:
    code = _HTTP_CODES.get(error.status_code, f"http-{error.status_code}")
    return Problem(error.status_code, code, str(error.detail), headers=error.headers)


def _path(location: Sequence[int | str]) -> str:
    """`body.payload.name`: where FastAPI says it is, without the name of the part when there is more."""
    parts = [str(part) for part in location]
    return ".".join(parts[1:] or parts)


def printable(text: str) -> str:
    """Text that can be sent: input is quoted in messages, and may hold lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
