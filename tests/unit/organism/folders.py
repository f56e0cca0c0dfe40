"""Folders with an organism in them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xml_pipeline.errors import InvalidOrganism

MODULE = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
from pydantic import BaseModel
from xml_pipeline.worker import HandlerMetadata, HandlerResponse, Huh, SystemError


@dataclass
class Ask:
    text: str
    about: Detail | None = None


@dataclass
class Detail:
    depth: int


class Answer(BaseModel):
    text: str


class Outer:
    class Inner(BaseModel):
        text: str


async def handle(payload: Ask | Answer, metadata: HandlerMetadata) -> HandlerResponse | None:
    return HandlerResponse.respond(Answer(text=payload.text))
"""

YAML = """\
organism: {name: tested}
listeners:
  - name: asker
    payload_class: mods.Ask
    response_class: mods.Answer
    handler: mods.handle
"""


def write(folder: Path, text: str = YAML, **modules: str) -> Path:
    """Write an organism.yaml, `mods.py`, and other modules; give the file."""
    for name, source in {"mods": MODULE, **modules}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    path = folder / "organism.yaml"
    path.write_text(textwrap.dedent(text))
    return path


@contextmanager
def faults() -> Iterator[list[tuple[int, str]]]:
    """Collect the lines and messages of the faults that loading raises."""
    found: list[tuple[int, str]] = []
    with pytest.raises(InvalidOrganism) as caught:
        yield found
    for fault in caught.value.faults:
        file, _, line = fault.path.rpartition(":")
        assert file.endswith("organism.yaml")
        found.append((int(line), fault.message))
