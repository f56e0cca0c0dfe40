from __future__ import annotations

from xml_pipeline.worker.blame import Verdict, blame


def test_whose_step_was_executed_is_guilty() -> None:
    assert blame(2, (1, 2, 3), alone=False) == Verdict(2)


def test_nobody_is_guilty_when_no_step_was_executed() -> None:
    assert blame(0, (1, 2), alone=False) == Verdict(None)


def test_whoever_was_alone_is_guilty() -> None:
    assert blame(0, (7,), alone=True) == Verdict(7)


def test_a_run_that_had_ended_is_not_guilty() -> None:
    assert blame(9, (1,), alone=False) == Verdict(None)
