"""Copies of the examples under names of their own, so that tests share one broker."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def renamed(example: Path, name: str, folder: Path) -> Path:
    """Copy an example's folder and give its organism another name; the path of its organism.yaml."""
    shutil.copytree(example, folder, ignore=shutil.ignore_patterns("__pycache__", ".organism"))
    file = folder / "organism.yaml"
    text, count = re.subn(r"(?m)(^organism:\s*\{?\s*name:\s*)[^,}\s]+", rf"\g<1>{name}", file.read_text(), count=1)
    if count != 1:
        raise ValueError(f"{file} does not begin with the name of its organism")
    file.write_text(text)
    return file
