"""`make demo` shows each envelope, the answer and the bill, and ends by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.organism_up import environment

_DEMO = Path(__file__).parents[2] / "examples" / "hello-world" / "demo.py"


def test_the_demo_shows_it_all(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(_DEMO)],
        env=environment(TMPDIR=str(tmp_path)),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    ways = ["api -> greeter", "greeter -> shouter", "shouter -> greeter", "greeter -> api"]
    places = [done.stdout.index(way) for way in ways]
    assert places == sorted(places)
    assert done.stdout.count('<message xmlns="https://xml-pipeline.org/ns/envelope/v1">') == len(ways)
    answer = done.stdout.index("the answer")
    assert places[-1] < answer < done.stdout.index("HELLO, THE WHOLE WIDE WORLD!", answer)
    for part in ("by agent", "greeter", "by model", "scripted-1", "$0.000381"):
        assert part in done.stdout[answer:]
    assert list(tmp_path.iterdir()) == []
