"""`organism setup` waits for what starts at the same time, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xml_pipeline.errors import BrokerUnavailable, Refused
from xml_pipeline.terminal.setup import once_it_answers


def failing(times: int, error: Exception, done: list[str]) -> Callable[[], None]:
    def step() -> None:
        done.append("tried")
        if len(done) <= times:
            raise error

    return step


def test_what_does_not_answer_yet_is_asked_again() -> None:
    tried: list[str] = []
    once_it_answers(failing(2, BrokerUnavailable("not yet"), tried), pause=0.0)
    assert len(tried) == 3


def test_what_never_answers_is_told() -> None:
    with pytest.raises(BrokerUnavailable, match="never"):
        once_it_answers(failing(9, BrokerUnavailable("never"), []), seconds=0.0, pause=0.0)


def test_a_refusal_is_told_at_once() -> None:
    tried: list[str] = []
    with pytest.raises(Refused):
        once_it_answers(failing(9, Refused("no"), tried), pause=0.0)
    assert len(tried) == 1
