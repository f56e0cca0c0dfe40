"""Named places where a fault test may end the process. Without ORGANISM_FAILPOINTS they do nothing.

`ORGANISM_FAILPOINTS=router.before-commit=kill,router.before-ack=kill@3` kills at the first commit, or at the third ack.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from xml_pipeline.errors import InvalidInput

VARIABLE = "ORGANISM_FAILPOINTS"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Armed:
    action: str
    passes_left: int


_armed: dict[str, _Armed] = {}


def arm_failpoints(environment: Mapping[str, str] = os.environ) -> None:
    """Read the variable, and say loudly that it is set. Raises InvalidInput for what cannot be read."""
    _armed.clear()
    for entry in filter(None, environment.get(VARIABLE, "").split(",")):
        name, armed = _parse(entry.strip())
        _armed[name] = armed
        log.warning("failpoint_armed", failpoint=name, action=armed.action, at_pass=armed.passes_left)


def failpoint(name: str) -> None:
    """End this process here when it was told to."""
    if not _armed:
        return
    armed = _armed.get(name)
    if armed is None:
        return
    armed.passes_left -= 1
    if armed.passes_left <= 0:
        del _armed[name]
        log.warning("failpoint_reached", failpoint=name, action=armed.action)
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)


def _parse(entry: str) -> tuple[str, _Armed]:
    name, separator, what = entry.partition("=")
    action, _, passes = what.partition("@")
    if not separator or action not in ("kill", "stop") or not (passes or "1").isdigit():
        raise InvalidInput(f"{VARIABLE}: '{entry}' is not NAME=kill, NAME=stop or NAME=kill@PASS")
    return name, _Armed(action, int(passes or "1"))
