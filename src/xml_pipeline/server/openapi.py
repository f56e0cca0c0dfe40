"""The OpenAPI document, with errors described as the problem documents that they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from fastapi import FastAPI

from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.access.openapi import with_security
from xml_pipeline.server.models import ProblemInfo
from xml_pipeline.server.problems import MEDIA_TYPE

_REFERENCE = {"$ref": "#/components/schemas/ProblemInfo"}
_UNUSED = ("HTTPValidationError", "ValidationError")
_FIRST_ERROR = 400


def install_openapi(app: FastAPI, guard: Guard | None = None) -> None:
    """Make `app.openapi()` describe every error as problem+json, and behind a guard which role each operation needs."""
    generate = cache(partial(_described, app, app.openapi))
    app.openapi = partial(_guarded, generate, guard) if guard else generate  # type: ignore[method-assign]


def _guarded(generate: Callable[[], dict[str, Any]], guard: Guard) -> dict[str, Any]:
    return with_security(generate(), needed=not guard.is_open)


def _described(app: FastAPI, generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    document = generate()
    for path in document.get("paths", {}).values():
        for operation in path.values():
            _describe_errors(operation["responses"])
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_problem_schemas())
    for name in _UNUSED:
        schemas.pop(name, None)
    app.openapi_schema = document
    return document


def _describe_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status.isdigit() and int(status) >= _FIRST_ERROR:
            response["content"] = {MEDIA_TYPE: {"schema": _REFERENCE}}


def _problem_schemas() -> dict[str, Any]:
    schema = ProblemInfo.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "ProblemInfo": schema}
