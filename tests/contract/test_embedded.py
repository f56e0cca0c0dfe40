"""The contract on an embedded organism: one process, bus in memory, PostgreSQL of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.contract.live_suite import LiveSuite
from tests.contract.rest_suite import RestSuite
from tests.contract.target import Target, network_target
from tests.contract.websocket_suite import WebSocketSuite
from tests.support.fleet import ROOT
from tests.support.organism_up import Up

EXAMPLE = ROOT / "examples" / "hello-world"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("embedded") / "organism"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".organism"))
    with Up(folder / "organism.yaml") as up:
        up.wait_running()
        yield up.url
        stopped_by_the_api(up)


def stopped_by_the_api(up: Up) -> None:
    """The last row of the contract: it drains and ends, with status 0."""
    with network_target(up.url) as target:
        answer = target.post("/organism/stop")
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert up.process.wait(60) == 0


class TestEmbedded(RestSuite, WebSocketSuite, LiveSuite):
    @pytest.fixture
    def target(self, embedded: str) -> Iterator[Target]:
        with network_target(embedded) as target:
            yield target
