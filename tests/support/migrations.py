"""Migrations that are there, and others put on top of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from xml_pipeline.storage.schema import MIGRATIONS, current_revision

TO_COME = Path(__file__).parents[1] / "integration" / "migrations_to_come"


def copied_scripts(folder: Path) -> Path:
    """A copy of those that are there."""
    return Path(shutil.copytree(MIGRATIONS, folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")))


def add_scripts(scripts: Path, **sources: str) -> None:
    """Put others beside them; the first comes after the newest that is there."""
    for name, source in sources.items():
        (scripts / "versions" / f"{name}.py").write_text(source.replace('"HEAD"', f'"{current_revision()}"'))


def add_those_to_come(scripts: Path) -> None:
    """Put those beside them that stand for what a release may need."""
    add_scripts(scripts, **{file.stem: file.read_text() for file in TO_COME.glob("*.py")})
