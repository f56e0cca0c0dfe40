"""The loop that takes what has arrived, routes it, and only then acknowledges it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.port import Consumer, Incoming
from xml_pipeline.routing.items import Item
from xml_pipeline.routing.pipeline import Pipeline

log = structlog.get_logger(__name__)

BATCH = 200
# Seconds without a batch after which confirms are written down without one.
QUIET = 0.1

Reader = Callable[[Sequence[Incoming]], list[Item]]


class Ingress:
    """Takes batches from one queue until it is cancelled or `stop` is set."""

    def __init__(self, consumer: Consumer, read: Reader, pipeline: Pipeline, stop: asyncio.Event) -> None:
        self._consumer = consumer
        self._read = read
        self._pipeline = pipeline
        self._stop = stop

    async def run(self) -> None:
        """Nothing is acknowledged before its effect is committed, and nothing is rejected."""
        stopped = asyncio.create_task(self._wait_for_stop())
        try:
            while not self._stop.is_set():
                deliveries = await self._next(stopped)
                if deliveries:
                    await self._pipeline.run(self._read(deliveries))
                    failpoint("router.before-ack")
                    await self._consumer.ack(deliveries)
        finally:
            stopped.cancel()

    async def _wait_for_stop(self) -> Sequence[Incoming]:
        await self._stop.wait()
        return ()

    async def _next(self, stopped: asyncio.Task[Sequence[Incoming]]) -> Sequence[Incoming]:
        """What has arrived; nothing when it is time to stop."""
        batch = asyncio.ensure_future(self._consumer.batch(BATCH))
        try:
            while True:
                quiet = QUIET if self._pipeline.batches.has_unnoted else None
                done, _ = await rest(asyncio.wait({batch, stopped}, timeout=quiet, return_when=asyncio.FIRST_COMPLETED))
                if done:
                    return batch.result() if batch in done else ()
                await self._note_sent()
        finally:
            batch.cancel()

    async def _note_sent(self) -> None:
        try:
            await self._pipeline.note_sent()
        except DatabaseUnavailable as error:
            log.warning("confirms_not_noted", reason=str(error))
            await asyncio.sleep(QUIET)
