"""Publishes in batches, again and again until the broker has confirmed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.port import Bus, Outgoing, Published
from xml_pipeline.message_bus.topology import Topology

log = structlog.get_logger(__name__)

_MOST_AT_ONCE = 500
# Of what is repeated by its sender, so much waits at most: behind a broker that takes nothing it would only pile up.
_MOST_REPEATED = 2000
_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0


@dataclass(frozen=True, slots=True)
class _Letter:
    message: Outgoing
    confirmed: Callable[[], None] | None


class Outbox:
    """What is posted leaves with the next batch. `topology` is declared again where a queue turns out to be gone."""

    def __init__(self, bus: Bus, topology: Callable[[], Topology]) -> None:
        self._bus = bus
        self._topology = topology
        self._letters: deque[_Letter] = deque()
        self._wake = asyncio.Event()
        self._busy = False

    def post(self, message: Outgoing, confirmed: Callable[[], None]) -> None:
        """Publish until confirmed, then call `confirmed`."""
        self._add(_Letter(message, confirmed))

    def post_once(self, message: Outgoing) -> None:
        """Publish once, whatever comes of it, or not at all: for what is repeated by its sender."""
        if len(self._letters) < _MOST_REPEATED:
            self._add(_Letter(message, None))

    @property
    def empty(self) -> bool:
        """Whether everything is confirmed."""
        return not self._letters and not self._busy

    async def run(self) -> None:
        """Publish, until cancelled."""
        wait = _FIRST_WAIT
        while True:
            await rest(self._wake.wait())
            failed = await self._publish_some()
            if failed:
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                wait = _FIRST_WAIT

    def _add(self, letter: _Letter) -> None:
        self._letters.append(letter)
        self._wake.set()

    async def _publish_some(self) -> bool:
        letters = [self._letters.popleft() for _ in range(min(len(self._letters), _MOST_AT_ONCE))]
        self._busy = True
        try:
            failpoint("worker.before-publish")
            outcomes = await self._bus.publish([letter.message for letter in letters])
            again = self._settle(letters, outcomes)
            await self._repair(outcomes)
        finally:
            self._busy = False
        if not self._letters:
            self._wake.clear()
        return again

    def _settle(self, letters: Sequence[_Letter], outcomes: Sequence[Published]) -> bool:
        again = []
        for letter, outcome in zip(letters, outcomes, strict=True):
            if letter.confirmed is None:
                continue
            if outcome is Published.CONFIRMED:
                letter.confirmed()
            else:
                again.append(letter)
        self._letters.extendleft(reversed(again))
        return bool(again)

    async def _repair(self, outcomes: Sequence[Published]) -> None:
        if Published.UNROUTABLE not in outcomes:
            return
        log.warning("queue_missing")
        try:
            await self._bus.declare(self._topology())
        except BrokerUnavailable as error:
            log.warning("topology_not_declared", error=str(error))
