"""Payloads as they are typed: `name=Dan`, `count:=3`, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xml_pipeline.errors import InvalidInput


def payload_of(fields: Sequence[str], given: str | None) -> dict[str, Any]:
    """The payload's object. `given` is JSON, `@file`, or `-` for standard input; fields win over it.

    Raises InvalidInput for what cannot be read.
    """
    payload = _object(_text(given)) if given is not None else {}
    for field in fields:
        name, value = _field(field)
        payload[name] = value
    return payload


def tags_of(given: Sequence[str]) -> dict[str, str]:
    """Tags as they are typed, `team=blue`. Raises InvalidInput for what is none."""
    tags: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise InvalidInput(f"{one!r} is no tag: write key=value")
        tags[key] = value
    return tags


def _field(field: str) -> tuple[str, Any]:
    name, equals, value = field.partition("=")
    if not equals or not name.rstrip(":"):
        raise InvalidInput(f"{field!r} is no field: write name=text, or name:=json")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], json.loads(value)
    except ValueError as error:
        raise InvalidInput(f"{field!r}: what is behind := is no JSON") from error


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {given[1:]}: {error}") from error


def _object(text: str) -> dict[str, Any]:
    try:
        payload = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"the payload is no JSON: {error}") from error
    if not isinstance(payload, dict):
        raise InvalidInput("the payload has to be a JSON object")
    return payload
