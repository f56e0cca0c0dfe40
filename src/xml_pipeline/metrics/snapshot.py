"""What has to be asked for elsewhere before it can be told: asked seldom, with a limit, told while it is fresh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from xml_pipeline.metrics.catalogue import SNAPSHOT_AGE
from xml_pipeline.metrics.reading import Reading

log = structlog.get_logger(__name__)

# Seconds for which an answer is good, and how many times as long as it took: it costs as much as there is to count.
INTERVAL = 5.0
REST = 10.0
# Seconds that whoever asks waits for it.
PATIENCE = 2.0
# Seconds after which what was read is told no longer.
STALE = 60.0


class Snapshot:
    """Readings of one source. Nothing is asked of it while nobody wants to know."""

    def __init__(
        self,
        name: str,
        read: Callable[[], Awaitable[Sequence[Reading]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        patience: float = PATIENCE,
    ) -> None:
        self._name = name
        self._read = read
        self._clock = clock
        self._patience = patience
        self._readings: Sequence[Reading] = ()
        self._read_at = clock()
        self._next_at = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Read anew, if it is time to. What cannot be read is left as it is."""
        async with self._lock:
            began = self._clock()
            if began < self._next_at:
                return
            try:
                async with asyncio.timeout(self._patience):
                    self._readings = await self._read()
                self._read_at = self._clock()
            except Exception as error:
                # Whatever it is: the other metrics are told, and the age of this says that it is missing.
                log.warning("metrics_not_read", snapshot=self._name, error=type(error).__name__)
            self._next_at = began + max(INTERVAL, REST * (self._clock() - began))

    def readings(self) -> list[Reading]:
        """What was read last and is true enough, and how old it is."""
        age = self._clock() - self._read_at
        told = [] if age > STALE else self._readings
        return [*told, Reading(SNAPSHOT_AGE, (self._name,), age)]
