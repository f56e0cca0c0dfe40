"""The routing transaction, the real code, on a model of READ COMMITTED: two routers are interleaved between their
statements with gateways, sweeps, crashes and each other. A serial model would pass every race wrongly.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.routing_model.store import Shortcut
from tests.unit.routing_model.world import Broken, World

STEPS = 250


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_or_doubled_however_routers_interleave(chance: Random) -> None:
    world = World(chance)
    world.run(STEPS)
    assert world.deadlocks == 0


@pytest.mark.parametrize(
    "shortcuts",
    [
        {Shortcut.READ_WITH_THE_LOCK},
        {Shortcut.INJECT_WITHOUT_THREAD_LOCK},
        {Shortcut.RELEASE_ON_TURNS_ONLY},
        {Shortcut.WINDOW_WITHOUT_LOCK},
        {Shortcut.COUNT_WITH_THE_LOCK},
        # Where states are read in time nothing differs from what was meant; this is what the check is there for.
        {Shortcut.COUNTS_AS_MEANT, Shortcut.READ_WITH_THE_LOCK},
    ],
    ids=lambda shortcuts: "+".join(sorted(shortcut.name.lower() for shortcut in shortcuts)),
)
def test_the_model_sees_each_known_shortcut(shortcuts: set[Shortcut]) -> None:
    with pytest.raises(Broken):
        _run_many(shortcuts)


def _run_many(shortcuts: set[Shortcut]) -> None:
    for seed in range(300):
        World(Random(seed), frozenset(shortcuts)).run(STEPS)
