"""How the OpenAPI document tells of keys and roles."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from xml_pipeline.access.roles import Role
from xml_pipeline.server.access.table import role_of

Document = Mapping[str, Any]

_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, as `organism key create` printed it."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, in its own header."},
}


def with_security(document: Document, *, needed: bool) -> dict[str, Any]:
    """The document with the role that each operation needs; where keys are not `needed` now, none will do as well.

    Raises UnnamedOperation for an operation without a role.
    """
    paths = {
        path: {method: _operation(operation, needed=needed) for method, operation in operations.items()}
        for path, operations in document["paths"].items()
    }
    components = {**document["components"], "securitySchemes": _SCHEMES}
    return {**document, "paths": paths, "components": components}


def _operation(operation: Document, *, needed: bool) -> dict[str, Any]:
    role = role_of(operation["operationId"])
    if role is None:
        return {**operation, "security": []}
    responses = {**operation["responses"], **{str(status): _refusal(status, operation) for status in (401, 403)}}
    return {**operation, "security": _security(role, needed=needed), "responses": responses}


def _security(role: Role, *, needed: bool) -> list[dict[str, list[str]]]:
    # OpenAPI 3.1 lets a requirement of any scheme name the role.
    required = [{scheme: [role.value]} for scheme in _SCHEMES]
    return required if needed else [{}, *required]


def _refusal(status: int, operation: Document) -> dict[str, Any]:
    """As the document describes its other problems; each operation has at least 503."""
    return {**operation["responses"]["503"], "description": HTTPStatus(status).phrase}
