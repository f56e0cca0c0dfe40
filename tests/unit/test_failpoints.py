"""Failpoints do nothing unless armed, and say so loudly when they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.failpoints import arm_failpoints, failpoint

_PROGRAM = """
from xml_pipeline.failpoints import arm_failpoints, failpoint
arm_failpoints()
for n in range(3):
    failpoint("here")
    print("passed", n, flush=True)
"""


def _run(setting: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ORGANISM_FAILPOINTS": setting}
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def test_without_the_variable_nothing_happens() -> None:
    arm_failpoints({})
    failpoint("here")


@pytest.mark.parametrize(("setting", "passes"), [("here=kill", 0), ("there=kill,here=kill@3", 2)])
def test_an_armed_one_kills_at_its_pass_and_is_announced(setting: str, passes: int) -> None:
    ended = _run(setting)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.count("passed") == passes
    assert "failpoint_armed" in ended.stdout + ended.stderr


def test_another_name_is_passed() -> None:
    assert _run("there=kill").stdout.count("passed") == 3


@pytest.mark.parametrize("setting", ["here", "here=explode", "here=kill@soon"])
def test_what_cannot_be_read_is_refused(setting: str) -> None:
    with pytest.raises(InvalidInput, match=setting.split("@")[0]):
        arm_failpoints({"ORGANISM_FAILPOINTS": setting})
