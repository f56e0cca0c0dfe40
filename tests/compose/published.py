"""The contract over HTTP and WebSocket, against an organism that runs already: ORGANISM_URL, ORGANISM_API_KEY.

Not collected by itself: whoever started the organism names this file. It has to be a fresh hello-world.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.contract.live_suite import LiveSuite
from tests.contract.rest_suite import RestSuite
from tests.contract.target import Target, network_target
from tests.contract.websocket_suite import WebSocketSuite


class TestPublished(RestSuite, WebSocketSuite, LiveSuite):
    @pytest.fixture
    def target(self) -> Iterator[Target]:
        with network_target(os.environ["ORGANISM_URL"], key=os.environ["ORGANISM_API_KEY"]) as target:
            yield target
