"""Consumes the queues of the listeners that a worker serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from xml_pipeline.health.health import Health
from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.worker.tasks import end_tasks

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    consumer: Consumer
    task: asyncio.Task[None]
    prefetch: int


class Intake:
    """One consumer for each listener. `accept` is told of each delivery, and says whether it could be understood."""

    def __init__(
        self, bus: Bus, names: Names, accept: Callable[[str, Consumer, Incoming], bool], health: Health
    ) -> None:
        self._bus = bus
        self._names = names
        self._accept = accept
        self._health = health
        self._subscriptions: dict[str, _Subscription] = {}
        self._stopped = False

    async def serve(self, listeners: Collection[str], prefetch: int) -> None:
        """Serve exactly these listeners, each with so many deliveries at once. Raises BrokerUnavailable."""
        for name, subscription in tuple(self._subscriptions.items()):
            if name not in listeners or subscription.prefetch != prefetch:
                await self._end(name)
        for name in listeners:
            if name not in self._subscriptions:
                await self._begin(name, prefetch)

    @property
    def healthy(self) -> tuple[str, ...]:
        """The listeners whose queue is known to deliver."""
        return tuple(name for name, one in self._subscriptions.items() if one.consumer.healthy and not one.task.done())

    async def stop(self) -> None:
        """Take nothing more, and give back what was not taken; what was taken can still be acked."""
        self._stopped = True
        subscriptions = tuple(self._subscriptions.values())
        for subscription in subscriptions:
            subscription.task.cancel()
        await asyncio.gather(*(subscription.consumer.stop() for subscription in subscriptions))

    async def release(self, keep: Collection[str]) -> None:
        """Give back what was not acked, except of the listeners in `keep`."""
        await asyncio.gather(*(self._end(name) for name in tuple(self._subscriptions) if name not in keep))

    async def _begin(self, name: str, prefetch: int) -> None:
        consumer = await self._bus.consume(self._names.agent(name), prefetch=prefetch)
        taking = self._health.loop(f"take {name}", lambda: self._take(name, consumer, prefetch))
        task = asyncio.get_running_loop().create_task(taking)
        task.add_done_callback(_tell_failure)
        self._subscriptions[name] = _Subscription(consumer, task, prefetch)

    async def _take(self, name: str, consumer: Consumer, prefetch: int) -> None:
        while not self._stopped:
            batch = await rest(consumer.batch(prefetch))
            refused = [incoming for incoming in batch if not self._accept(name, consumer, incoming)]
            if refused:
                await consumer.reject(refused, requeue=False)

    async def _end(self, name: str) -> None:
        subscription = self._subscriptions.pop(name)
        await end_tasks((subscription.task,))
        await subscription.consumer.close()


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("intake_failed", error=repr(error))
