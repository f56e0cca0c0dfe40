"""The commands of a document, run as they are printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.fleet import ROOT
from tests.support.postgres_server import binaries


def commands(document: str, name: str) -> str:
    """The block ```sh NAME of docs/DOCUMENT."""
    text = (ROOT / "docs" / document).read_text()
    blocks: list[str] = re.findall(rf"^```sh {name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"docs/{document} has {len(blocks)} blocks with the name {name}"
    return blocks[0]


def shell(script: str, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Begin to run it in bash, which ends at the first command that fails; programs are those of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), str(binaries()), os.environ.get("PATH", os.defpath)])
    return subprocess.Popen(
        ["/bin/bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], timeout: float = 120.0) -> str:
    """What it printed. Raises AssertionError where a command failed."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output
