"""A file with a secret: whole or not there, and never readable by others."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from xml_pipeline.errors import InvalidInput


def write_secret(file: Path, secret: str, *, group_reads: bool = False) -> None:
    """Write a secret and a line's end; a file of that name is replaced. Raises InvalidInput where that cannot be."""
    try:
        _write(file, secret, 0o640 if group_reads else 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot write {file}: {error.strerror}; choose another place") from error


def _write(file: Path, secret: str, mode: int) -> None:
    """Beside its place first, made for its owner alone."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w") as beside:
            beside.write(secret + "\n")
            beside.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
