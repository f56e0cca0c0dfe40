"""The OpenAPI document is true: whatever fits it, and whatever does not, gets a documented answer and never a 500."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.looking import Anything, LookingListener, LookingPump, hello_pump
from xml_pipeline.server.app import create_app

Operation = APIOperation[Any, Any, Any, Any]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def pump_with_anything() -> LookingPump:
    pump = hello_pump()
    pump.listeners["odd"] = LookingListener("odd", Anything)
    return pump


app = create_app(pump_with_anything())
FOUND = schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations()
OPERATIONS: dict[str, Operation] = {found.ok().label: found.ok() for found in FOUND if isinstance(found, Ok)}


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_operation(label: str, mode: GenerationMode) -> None:
    operation = OPERATIONS[label]

    @settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # Waiting is tested elsewhere; here it would only take long.
        case.headers.pop("Prefer", None)
        case.call_and_validate(checks=CHECKS)

    if mode is GenerationMode.POSITIVE or _has_wrong_inputs(operation):
        check()


def _has_wrong_inputs(operation: Operation) -> bool:
    return bool(operation.body) or bool(operation.query) or bool(operation.headers)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_it_is_shown(path: str) -> None:
    assert TestClient(app).get(path).status_code == 200


def test_every_failure_is_a_problem_document() -> None:
    document = TestClient(app).get("/openapi.json").json()
    contents = {
        (status, media)
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        for media in response["content"]
    }
    assert {media for status, media in contents if status.startswith("2")} == {"application/json"}
    assert {media for status, media in contents if not status.startswith("2")} == {"application/problem+json"}
