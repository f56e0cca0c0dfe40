"""The contract over HTTP and WebSocket against services as processes, two of each, on RabbitMQ and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.live_suite import LiveSuite
from tests.contract.rest_suite import RestSuite
from tests.contract.target import Target, network_target
from tests.contract.websocket_suite import WebSocketSuite
from tests.support.broker import unique_organism
from tests.support.fleet import ROOT, Fleet, running
from tests.support.organisms import renamed
from tests.support.postgres import Databases

TWO_OF_EACH = {"gateway": 2, "router": 2, "agent-worker": 2, "usage": 2}


@pytest.fixture(scope="module")
def fleet(amqp_url: str, postgres: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("processes")
    name = unique_organism()
    file = renamed(ROOT / "examples" / "hello-world", name, folder / name)
    database_url = postgres.create_database()
    fleet = Fleet(file, amqp_url, database_url, folder)
    with running(fleet, TWO_OF_EACH):
        yield fleet
        all_stopped_by_the_api(fleet)
    postgres.drop(database_url)


def all_stopped_by_the_api(fleet: Fleet) -> None:
    """The last row of the contract: every service drains and ends, with status 0."""
    with network_target(fleet.urls()[0]) as target:
        answer = target.post("/organism/stop")
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    assert [service.process.wait(60) for service in fleet.services] == [0] * len(fleet.services)


class TestProcesses(RestSuite, WebSocketSuite, LiveSuite):
    @pytest.fixture
    def target(self, fleet: Fleet) -> Iterator[Target]:
        first, second = fleet.urls()
        with network_target(first, second, organism=fleet.organism_file.parent.name) as target:
            yield target
