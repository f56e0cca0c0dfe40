"""`make chaos`: every fault under load, each from a fresh organism to a verdict.

`FAULT=name SEED=n` repeats one, or some with commas between; `FAULT=mix MINUTES=30` mixes them by chance. `SHORT=1` is
the short form. `BUGS=1` (or `BUG=name`) tries the checker: with a bug switched on it has to find something. `RATE=10`
loads with so many injects a second. `KEEP=folder` keeps what the runs leave behind, `TABLE=file` gets the results as
Markdown.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import report
from tests.chaos.capacity import rate_for
from tests.chaos.checker import Verdict
from tests.chaos.faults.catalogue import FAULTS, SEEN_ON, with_bug
from tests.chaos.faults.mix import mix
from tests.chaos.ground import Ground, prepared
from tests.chaos.run import Fault, Report, failed, run_fault


@dataclass(frozen=True, slots=True)
class _Session:
    """What all runs of one call share. `rate`: injects a second."""

    ground: Ground
    folder: Path
    seed: int
    rate: float

    def run(self, fault: Fault) -> Report:
        """One run, told as soon as it has ended. A run that could not be made has failed, and the others go on."""
        try:
            done = run_fault(self.ground, fault, self.seed, self.rate, self.folder / fault.name)
        except Exception as error:
            traceback.print_exc()
            done = failed(fault, self.seed, self.rate, f"it could not be run: {error!r}")
        print(report.row(done), flush=True)
        for line in report.findings(done):
            print(f"    {line}", flush=True)
        return done


def main() -> int:
    """Run what was asked for; 1 where a promise was not kept, or a bug not seen."""
    faults, bugs = _wanted(), _bugs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started ends in order, too
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what faults do to the harness's own connections
    with prepared() as ground, _folder() as folder:
        folder.mkdir(parents=True, exist_ok=True)
        rate = _rate(ground, folder, bugs)
        session = _Session(ground, folder, int(os.environ.get("SEED", "1")), rate)
        print(f"on {ground.broker.kind} and {ground.databases.kind}, {rate:.1f} injects a second", flush=True)
        print(report.HEAD, flush=True)
        if bugs:
            return _try_checker(session, bugs)
        reports = [session.run(fault) for fault in faults]
    if os.environ.get("TABLE"):
        Path(os.environ["TABLE"]).write_text("\n".join(report.markdown(reports)) + "\n")
    print(report.closing(reports), flush=True)
    return 0 if all(one.passed for one in reports) else 1


def _is_seen(bug: str, verdict: Verdict) -> bool:
    return any(re.search(SEEN_ON[bug].by, line) for line in (*verdict.lost, *verdict.doubled, *verdict.off))


def _rate(ground: Ground, folder: Path, bugs: Sequence[str]) -> float:
    given = os.environ.get("RATE")
    return float(given) if given else rate_for(ground, folder / "capacity", short=bool(os.environ.get("SHORT") or bugs))


def _try_checker(session: _Session, bugs: Sequence[str]) -> int:
    """Each bug has to be found by what it does, as `SEEN_ON` says it; not by its slowness, nor by a run that failed."""
    seen = [bug for bug in bugs if _is_seen(bug, session.run(with_bug(bug)).verdict)]
    print(f"checker: {len(seen)} bugs seen, {len(bugs) - len(seen)} not seen", flush=True)
    return 0 if len(seen) == len(bugs) else 1


def _bugs() -> Sequence[str]:
    names = os.environ.get("BUG", "")
    bugs = names.split(",") if names else list(SEEN_ON) if os.environ.get("BUGS") else []
    for name in bugs:
        if name not in SEEN_ON:
            sys.exit(f"there is no bug {name}: there are {', '.join(SEEN_ON)}")
    return bugs


def _wanted() -> Sequence[Fault]:
    names = os.environ.get("FAULT")
    if names is not None:
        return [_named(name) for name in names.split(",")]
    short = bool(os.environ.get("SHORT"))
    return [fault for fault in FAULTS.values() if fault.short or not short]


def _named(name: str) -> Fault:
    if name == "mix":
        return mix(float(os.environ.get("MINUTES", "30")))
    if name not in FAULTS:
        sys.exit(f"there is no fault {name}: there are mix, {', '.join(FAULTS)}")
    return FAULTS[name]


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
