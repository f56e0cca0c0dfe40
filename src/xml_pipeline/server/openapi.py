"""The OpenAPI document, with errors described as the problem documents that they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from xml_pipeline.server.models import ProblemInfo
from xml_pipeline.server.problems import MEDIA_TYPE

_REFERENCE = {"$ref": "#/components/schemas/ProblemInfo"}
_UNUSED = ("HTTPValidationError", "ValidationError")
_FIRST_ERROR = 400


def install_openapi(app: FastAPI) -> None:
    """Make `app.openapi()` describe every error as problem+json."""
    app.openapi = _described(app, app.openapi)  # type: ignore[method-assign]


def _described(app: FastAPI, generate: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path in document.get("paths", {}).values():
                for operation in path.values():
                    _describe_errors(operation["responses"])
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(_problem_schemas())
            for name in _UNUSED:
                schemas.pop(name, None)
            app.openapi_schema = document
        return app.openapi_schema

    return openapi


def _describe_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status.isdigit() and int(status) >= _FIRST_ERROR:
            response["content"] = {MEDIA_TYPE: {"schema": _REFERENCE}}


def _problem_schemas() -> dict[str, Any]:
    schema = ProblemInfo.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "ProblemInfo": schema}
