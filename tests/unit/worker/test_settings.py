from __future__ import annotations

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.worker.settings import WorkerSettings


def test_nothing_set_serves_all_listeners() -> None:
    settings = WorkerSettings.from_environment({})
    assert settings.listeners is None
    assert 1 <= settings.processes <= 4
    assert settings.grace == 5.0


def test_variables_are_read() -> None:
    settings = WorkerSettings.from_environment(
        {"ORGANISM_LISTENERS": "a, b,", "ORGANISM_WORKER_PROCESSES": "3", "ORGANISM_WORKER_GRACE": "0"}
    )
    assert (settings.listeners, settings.processes, settings.grace) == (frozenset({"a", "b"}), 3, 0.0)


def test_the_caller_wins() -> None:
    assert WorkerSettings.from_environment({"ORGANISM_WORKER_PROCESSES": "3"}, processes=2).processes == 2


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_number_is_told(text: str) -> None:
    with pytest.raises(InvalidInput, match="ORGANISM_WORKER_GRACE"):
        WorkerSettings.from_environment({"ORGANISM_WORKER_GRACE": text})


def test_a_listener_that_is_not_there_is_named() -> None:
    """A worker that serves nothing, for a slip of the pen, would look alive."""
    settings = WorkerSettings.from_environment({"ORGANISM_LISTENERS": "greeter,shuoter"})
    with pytest.raises(InvalidInput, match="no listener shuoter; there are: greeter, shouter"):
        settings.require_known(["greeter", "shouter"])
    WorkerSettings.from_environment({}).require_known(["greeter"])
