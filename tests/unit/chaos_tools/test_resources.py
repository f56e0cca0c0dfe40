"""When memory and descriptors count as growing, and that a process that leaks is seen."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.tools.resources import Growth, Sample, Sampler, growth, take_sample
from tests.support.processes import SupportError, end, spawn, wait_until

LIMIT = 15.0
# Opens one more file and holds one more megabyte for each byte that its file has.
LEAK = """
import pathlib, sys, time
held, asked = [], pathlib.Path(sys.argv[1])
while True:
    if asked.stat().st_size > len(held):
        held.append((open("/dev/null"), b"x" * (1 << 20)))
    time.sleep(0.002)
"""


def series(rss: Sequence[int], descriptors: Sequence[int] | None = None) -> list[Sample]:
    counts = descriptors or [10] * len(rss)
    return [
        Sample(float(second), "router", 1, size, count, 1)
        for second, (size, count) in enumerate(zip(rss, counts, strict=True))
    ]


@given(st.integers(1, 10**9), st.integers(8, 60))
def test_what_stays_the_same_is_flat(size: int, count: int) -> None:
    assert growth(series([size] * count), warm_up=0) == [Growth("router", count, 0.0, 0.0)]


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(8, 60))
def test_what_grows_all_the_time_is_not(size: int, step: int, count: int) -> None:
    (found,) = growth(series([size + step * number for number in range(count)]), warm_up=0)
    assert found.rss_percent > 0
    assert not found.within(rss_percent=0, descriptors_percent=0)


def test_descriptors_that_grow_are_seen_on_their_own() -> None:
    (found,) = growth(series([100] * 8, [10, 10, 10, 10, 20, 20, 20, 20]), warm_up=0)
    assert found == Growth("router", 8, 0.0, 100.0)
    assert found.within(rss_percent=5, descriptors_percent=100)
    assert not found.within(rss_percent=5, descriptors_percent=99)


def test_a_single_peak_is_no_growth() -> None:
    rss = [100] * 12
    rss[-1] = 10_000
    assert growth(series(rss), warm_up=0)[0].rss_percent == 0


def test_a_warm_up_does_not_count() -> None:
    (found,) = growth(series([1, 2, 3, 4] + [100] * 8), warm_up=4)
    assert (found.samples, found.rss_percent) == (8, 0.0)


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(SupportError, match="7 samples"):
        growth(series([100] * 20), warm_up=13)


@pytest.fixture
def leaking(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "asked").touch()
    command = [sys.executable, "-c", LEAK, str(tmp_path / "asked")]
    process = spawn(command, env=os.environ, cwd=tmp_path, log=tmp_path / "log")
    yield process
    end(process)


def test_a_process_that_leaks_is_found_out(leaking: subprocess.Popen[bytes], tmp_path: Path) -> None:
    table = tmp_path / "samples.csv"
    with Sampler(lambda: {"leak": [leaking.pid], "none": []}, every=0.01, table=table) as sampler:
        until_sampled(sampler, 8)
        (tmp_path / "asked").write_bytes(b"." * 40)
        wait_until(lambda: sampler.samples[-1].descriptors >= 40, timeout=LIMIT, what="the leak is seen")
        until_sampled(sampler, len(sampler.samples) * 2)
    (found,) = growth(sampler.samples, warm_up=0)
    assert found.service == "leak"
    assert found.descriptors_percent > 100
    assert found.rss_percent > 50
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["rss_bytes"]) for row in rows] == [sample.rss_bytes for sample in sampler.samples]


def test_a_sampler_that_fails_says_so() -> None:
    def broken() -> dict[str, list[int]]:
        raise LookupError("no such fleet")

    with pytest.raises(LookupError, match="no such fleet"), Sampler(broken, every=0.01):
        pass


def test_descendants_count_and_the_dead_do_not(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=tmp_path)
    wait_until(lambda: processes(process.pid) == 2, timeout=LIMIT, what="the child runs")
    process.communicate(b"\n")
    assert take_sample(0.0, "gone", [process.pid]) is None


def processes(pid: int) -> int:
    sample = take_sample(0.0, "family", [pid])
    return sample.processes if sample else 0


def until_sampled(sampler: Sampler, count: int) -> None:
    wait_until(lambda: len(sampler.samples) >= count, timeout=LIMIT, what=f"{count} samples")
