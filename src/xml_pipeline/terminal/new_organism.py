"""A first organism of one's own."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

from xml_pipeline.errors import InvalidInput

_TEMPLATE = Path(__file__).parent / "template"
_PROGRAM = "organism"
_FILES = ("organism.yaml", "hello.py")


def write_organism(folder: Path) -> list[Path]:
    """Write an organism that runs, named after its folder; the files. Raises InvalidInput before it overwrites."""
    targets = [folder / name for name in _FILES]
    for target in targets:
        if target.exists():
            raise InvalidInput(f"{target} is there already")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target in targets:
            text = (_TEMPLATE / target.name).read_text(encoding="utf-8")
            target.write_text(text.replace("name: hello-world", f"name: {_name(folder)}"), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write to {folder}: {error.strerror}") from error
    return targets


def first_steps(folder: Path) -> tuple[str, str]:
    """What to type to run the new organism, and to inject into it, with this program as the shell finds it."""
    program = shlex.quote(_program())
    return f"cd {shlex.quote(str(folder))}\n{program} up", f"{program} inject greeter name=Dan --wait 30"


def _program() -> str:
    """Its path, unless the shell finds it by its name."""
    running = Path(sys.argv[0]).absolute()
    found = shutil.which(_PROGRAM)
    is_found = found is not None and Path(found).absolute() == running
    return _PROGRAM if is_found or running.name != _PROGRAM else str(running)


def _name(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name if name[:1].isalpha() else f"organism-{name}".strip("-")
