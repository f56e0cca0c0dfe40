"""Every fault is told of, every bug has a fault that brings it to light."""

from __future__ import annotations

import re
from pathlib import Path

from tests.chaos.bugs import BUGS
from tests.chaos.faults.catalogue import FAULTS, SEEN_ON

ROOT = Path(__file__).resolve().parents[3]
PROMISES, _, REST = (ROOT / "docs" / "reliability.md").read_text().partition("## How a run is judged")


def test_every_fault_tests_a_promise_and_every_promise_names_faults() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", PROMISES))
    assert set(FAULTS) <= named
    rows = [line for line in PROMISES.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) > 10
    for row in rows:
        faults = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", row.split("|")[2])) & {*FAULTS, "mix"}
        assert faults, row


def test_every_bug_has_a_fault_that_brings_it_to_light() -> None:
    assert SEEN_ON.keys() == BUGS.keys()
    assert {seen.on for seen in SEEN_ON.values()} <= FAULTS.keys()


def test_the_failpoints_that_are_told_of_are_those_there_are() -> None:
    sources = (ROOT / "src" / "xml_pipeline").rglob("*.py")
    placed = {name for source in sources for name in re.findall(r'failpoint\("([a-z.-]+)"\)', source.read_text())}
    assert placed == set(re.findall(r"`((?:worker|router|usage|gateway|archive|webhook)\.[a-z-]+)`", REST))
