"""Who finds the backlog full."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.storage.backlog import Backlog, BacklogLimits, Full, refuse_by_count, refuse_by_thread

NAMES = ("greeter", "shouter", "echo")
_SPACE = UUID(int=7)


@dataclass(frozen=True)
class Newcomer:
    id: UUID
    thread_id: UUID
    to_id: str


def newcomers(*targets: str) -> list[Newcomer]:
    return [Newcomer(uuid5(_SPACE, str(place)), _SPACE, target) for place, target in enumerate(targets)]


def test_a_listener_has_its_own_limit_or_the_one_for_all() -> None:
    limits = BacklogLimits(organism=100, thread=100, listener=3, own={"shouter": 1})
    coming = newcomers("greeter", "shouter", "shouter", "greeter", "greeter")
    refused = refuse_by_count(coming, Backlog(limits, {"greeter": 1}))
    assert refused == {coming[2].id: Full.LISTENER, coming[4].id: Full.LISTENER}


def test_the_organism_counts_what_is_open_of_all() -> None:
    limits = BacklogLimits(organism=5, thread=100, listener=100)
    coming = newcomers("greeter", "shouter", "echo")
    assert refuse_by_count(coming, Backlog(limits, {"greeter": 3})) == {coming[2].id: Full.ORGANISM}


@given(
    organism=st.integers(1, 20),
    listener=st.integers(1, 10),
    own=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 10)),
    counted=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 25)),
    targets=st.lists(st.sampled_from(NAMES), max_size=40),
)
def test_no_limit_is_passed_and_nobody_is_refused_without_one(
    organism: int, listener: int, own: dict[str, int], counted: dict[str, int], targets: list[str]
) -> None:
    limits = BacklogLimits(organism, 1, listener, own)
    coming = newcomers(*targets)
    refused = refuse_by_count(coming, Backlog(limits, counted))
    taken = Counter(one.to_id for one in coming if one.id not in refused)
    after = Counter(counted) + taken
    if taken:
        assert after.total() <= organism
    assert all(after[name] <= limits.of_listener(name) for name in taken)
    for one in coming:
        if refused.get(one.id) is Full.ORGANISM:
            assert after.total() >= organism
        if refused.get(one.id) is Full.LISTENER:
            assert after[one.to_id] >= limits.of_listener(one.to_id)


@given(limit=st.integers(1, 5), open_=st.integers(0, 8), count=st.integers(0, 10))
def test_a_thread_takes_what_is_left_in_the_order_of_arrival(limit: int, open_: int, count: int) -> None:
    coming = newcomers(*["greeter"] * count)
    refused = refuse_by_thread(coming, limit, {_SPACE: open_})
    room = max(0, limit - open_)
    assert refused == {one.id: Full.THREAD for one in coming[room:]}
