"""`make chaos`: every fault under load, each from a fresh organism to a verdict.

`FAULT=name SEED=n` repeats one; `SHORT=1` is the short form; `BUGS=1` (or `BUG=name`) tries the checker: with a bug
switched on it has to find something; `KEEP=folder` keeps what the runs leave behind.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.chaos import report
from tests.chaos.faults.catalogue import FAULTS, SEEN_ON, with_bug
from tests.chaos.ground import Ground, prepared
from tests.chaos.run import Fault, Report, run_fault

SHORT_RATE = 10.0


def main() -> int:
    """Run what was asked for; 1 where a promise was not kept, or a bug not seen."""
    seed = int(os.environ.get("SEED", "1"))
    bugs = _bugs()
    with prepared() as ground, _folder() as folder:
        print(f"on {ground.broker.kind} and {ground.databases.kind}", flush=True)
        print(report.HEAD, flush=True)
        if bugs:
            return _try_checker(ground, bugs, seed, folder)
        reports = [_run(ground, fault, seed, folder) for fault in _wanted()]
    print(report.closing(reports), flush=True)
    return 0 if all(one.passed for one in reports) else 1


def _run(ground: Ground, fault: Fault, seed: int, folder: Path) -> Report:
    done = run_fault(ground, fault, seed, SHORT_RATE, folder / fault.name)
    print(report.row(done), flush=True)
    for line in report.findings(done):
        print(f"    {line}", flush=True)
    return done


def _try_checker(ground: Ground, bugs: Sequence[str], seed: int, folder: Path) -> int:
    """Each bug has to be found by what it has lost, doubled or left behind; not by its slowness."""
    seen = [bug for bug in bugs if not _run(ground, with_bug(bug), seed, folder).verdict.passed]
    print(f"checker: {len(seen)} bugs seen, {len(bugs) - len(seen)} not seen", flush=True)
    return 0 if len(seen) == len(bugs) else 1


def _bugs() -> Sequence[str]:
    name = os.environ.get("BUG")
    if name is not None and name not in SEEN_ON:
        sys.exit(f"there is no bug {name}: there are {', '.join(SEEN_ON)}")
    if name is not None:
        return [name]
    return list(SEEN_ON) if os.environ.get("BUGS") else []


def _wanted() -> Sequence[Fault]:
    name = os.environ.get("FAULT")
    if name is not None:
        if name not in FAULTS:
            sys.exit(f"there is no fault {name}: there are {', '.join(FAULTS)}")
        return [FAULTS[name]]
    short = bool(os.environ.get("SHORT"))
    return [fault for fault in FAULTS.values() if fault.short or not short]


@contextmanager
def _folder() -> Iterator[Path]:
    kept = os.environ.get("KEEP")
    if kept:
        yield Path(kept).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="xml-pipeline-chaos-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
