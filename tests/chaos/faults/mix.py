"""Faults one after the other, by chance, for as long as it may take; and whether services grow meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.chaos.checker import Allowed
from tests.chaos.faults import brokers, databases, networks, others, processes
from tests.chaos.run import Fault, Stage
from tests.chaos.tools.resources import Sampler, growth

# The second of each service is never killed, stopped or cut off: it is watched for what it holds.
SPARED = frozenset({1})
CALM_SECONDS = (4.0, 12.0)
# The first minutes in percent of the whole are the warm-up: pools fill, caches are bounded and fill.
WARM_UP = 0.2
MOST_GROWTH = 10.0
SAMPLE_SECONDS = 5.0
_NEED_ALL = ("queues-purged", "usage-queue-missing")

_Strikes = Mapping[str, Fault]


def mix(minutes: float) -> Fault:
    """So many minutes of it."""

    @contextmanager
    def strike(stage: Stage) -> Iterator[None]:
        stage.spared = SPARED
        end = time.monotonic() + minutes * 60
        done: Counter[str] = Counter()
        with Sampler(lambda: _watched(stage), every=SAMPLE_SECONDS, table=stage.folder / "resources.csv") as sampler:
            while time.monotonic() < end:
                fault = stage.chance.choice(_mixable())
                done[fault.name] += 1
                _strike_once(stage, fault)
        stage.notes += [f"{count} x {name}" for name, count in sorted(done.items())]
        _judge_growth(stage, sampler, minutes)
        yield

    return Fault(
        name="mix",
        promise="All of it by chance, for half an hour: nothing is lost or doubled, and nothing grows",
        strike=strike,
        target=20.0,
        allowed=Allowed(expired=True, reruns=True),
        wire=networks.proxies,
    )


def _strike_once(stage: Stage, fault: Fault) -> None:
    stage.healed_at, notes = 0.0, list(stage.notes)
    with fault.strike(stage):
        stage.crew.wait(fault.hold)
    stage.healed_at, stage.notes = stage.healed_at or time.time(), notes
    stage.crew.wait(stage.chance.uniform(*CALM_SECONDS))


def _mixable() -> Sequence[Fault]:
    """Those that need no services wired for them alone, nor all consumers of a queue away."""
    rooms = (others.FAULTS, processes.FAULTS, brokers.FAULTS, databases.FAULTS, networks.FAULTS)
    mixable = [fault for room in rooms for fault in room if fault.wire in (None, networks.proxies)]
    return [fault for fault in mixable if fault.name not in _NEED_ALL]


def _watched(stage: Stage) -> dict[str, list[int]]:
    return {
        place.label: [place.service.process.pid]
        for place in stage.crew.places
        if place.number in SPARED and place.service.alive
    }


def _judge_growth(stage: Stage, sampler: Sampler, minutes: float) -> None:
    for one in growth(sampler.samples, warm_up=minutes * 60 * WARM_UP):
        told = f"{one.service}: memory {one.rss_percent:+.1f} %, descriptors {one.descriptors_percent:+.1f} %"
        stage.notes.append(told)
        if not one.within(rss_percent=MOST_GROWTH, descriptors_percent=MOST_GROWTH):
            stage.shortcomings.append(f"it grows: {told}")
