"""What import-linter cannot see: scripts that are in no package, and files that are no code."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(ROOT.glob("services/*/*.py"))
LOCK = (ROOT / "requirements.lock").read_text()


def _imported(script: Path) -> set[str]:
    tree = ast.parse(script.read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {"." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_a_service_imports_nothing_of_another(script: Path) -> None:
    assert _imported(script) <= {*sys.stdlib_module_names, "xml_pipeline"}


def test_there_are_four_services() -> None:
    assert [script.parent.name for script in SCRIPTS] == ["agent-worker", "gateway", "router", "usage"]


def test_the_lock_says_nothing_of_where_things_come_from() -> None:
    assert not re.search(r"://|^-|@|file:/|(^|\s)/", LOCK, re.MULTILINE)


def test_everything_in_the_lock_has_a_hash() -> None:
    pins = re.split(r"\n(?=[a-z])", LOCK.strip())
    assert len(pins) > 50
    assert [pin for pin in pins if "--hash=sha256:" not in pin and not pin.startswith("#")] == []


def test_everything_the_project_needs_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needed = [line for lines in (project["dependencies"], *extras) for line in lines]
    locked = {line.partition("==")[0] for line in LOCK.splitlines() if "==" in line}
    assert {_canonical(line) for line in needed} <= locked


def _canonical(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name.group()).lower()
