"""A subscription that lasts: made again whenever it is lost, and looked after where nobody tells of the loss."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity

from xml_pipeline.errors import BrokerUnavailable, NotFound
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.message_bus.rabbit.declaring import Declarer, bind_own_queue, declare_own_queue
from xml_pipeline.message_bus.rabbit.delivery import DeliveryChannel, cancel_consumer, close_channel
from xml_pipeline.message_bus.rabbit.link import Backoff, Link, call
from xml_pipeline.message_bus.rabbit.watchdog import Watchdog
from xml_pipeline.message_bus.topology import Binding
from xml_pipeline.stopping import CONSUMERS

log = structlog.get_logger(__name__)

_FIRST_SECONDS: Final = 10.0


class RabbitConsumer:
    """A subscription that is made again whenever it is lost.

    Without a queue it has one of its own, and acks by itself.
    """

    def __init__(
        self,
        link: Link,
        declarer: Declarer,
        queue: str | None,
        bindings: tuple[Binding, ...],
        prefetch: int,
        on_close: Callable[[RabbitConsumer], None],
    ) -> None:
        if prefetch < 1:
            raise ValueError("prefetch is at least 1")
        self._link = link
        self._declarer = declarer
        self._queue = queue
        self._bindings = bindings
        self._prefetch = prefetch
        self._on_close = on_close
        self._wake = asyncio.Event()
        self._channel: DeliveryChannel | None = None
        self._retired: list[DeliveryChannel] = []
        self._left_over: deque[Incoming] = deque()
        self._epoch = 0
        self._ended = False
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Subscribe, and stay so; raises NotFound for a missing queue. A broker that is gone is waited for later."""
        first = await self._first()
        self._keeper = asyncio.create_task(self._keep(first), name=f"consumer {self._queue or 'own'}")

    async def batch(self, limit: int) -> Sequence[Incoming]:
        """Wait for at least one delivery, then return all that have arrived, at most `limit`.

        Raises BrokerUnavailable when this consumer is stopped or closed.
        """
        while not (arrived := self._waiting()):
            if self._ended:
                raise BrokerUnavailable("this consumer is closed")
            self._wake.clear()
            await self._wake.wait()
        taken = [arrived.popleft() for _ in range(min(limit, len(arrived)))]
        if self._queue is None:
            await self.ack(taken)
        return taken

    async def ack(self, deliveries: Sequence[Incoming]) -> None:
        """Acknowledge; deliveries of a lost subscription are ignored: the broker delivers them again."""
        for channel in self._channels():
            channel.ack(one.tag for one in deliveries if one.epoch == channel.epoch)

    async def reject(self, deliveries: Sequence[Incoming], *, requeue: bool) -> None:
        """Give back to the queue, or, with `requeue=False`, dead-letter."""
        for channel in self._channels():
            channel.reject((one.tag for one in deliveries if one.epoch == channel.epoch), requeue=requeue)

    @property
    def healthy(self) -> bool:
        """Whether the broker is known to deliver to this consumer now."""
        return self._channel is not None and self._channel.consuming and self._link.answers

    @property
    def reply_address(self) -> str:
        """The name of the queue; it changes when a queue of one's own is made again."""
        return self._channel.queue if self._channel is not None else self._queue or ""

    async def bind_again(self) -> None:
        """Bind a queue of one's own as it was: a deleted exchange takes its bindings along, and nobody is told."""
        channel = self._channel
        if channel is None or not channel.consuming or not self._bindings:
            return
        try:
            await bind_own_queue(channel.amqp, channel.queue, self._bindings)
        except (BrokerUnavailable, AMQPChannelError) as error:  # the channel is closed then, and opened again
            log.info("queue_not_bound", queue=channel.queue, reason=str(error))

    async def stop(self) -> None:
        """Take no more: what has arrived and no batch has taken goes back now; what was taken can still be acked."""
        await self._end()
        channels = self._channels()
        await asyncio.gather(*(cancel_consumer(channel, CONSUMERS) for channel in channels))
        for channel in channels:
            waiting = [one.tag for one in (*channel.arrived, *self._left_over) if one.epoch == channel.epoch]
            channel.reject(waiting, requeue=True)
            channel.arrived.clear()
        self._left_over.clear()

    async def close(self) -> None:
        """Stop consuming; what was not acked goes back to the queue."""
        channels = await self.leave()
        await asyncio.gather(*(close_channel(channel, CONSUMERS) for channel in channels))

    async def leave(self) -> list[DeliveryChannel]:
        """Stop consuming without a word: for whoever closes the channels that are left, or their connection."""
        if self._closed:
            return []
        self._closed = True
        await self._end()
        channels = self._channels()
        self._channel, self._retired = None, []
        self._left_over.clear()
        self._on_close(self)
        return channels

    async def _end(self) -> None:
        """Subscribe no more, and wake up whoever waits for deliveries."""
        self._ended = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._wake.set()

    def _waiting(self) -> deque[Incoming]:
        if self._left_over:
            return self._left_over
        return self._channel.arrived if self._channel is not None else self._left_over

    def _channels(self) -> list[DeliveryChannel]:
        return [*self._retired, self._channel] if self._channel is not None else self._retired

    async def _first(self) -> bool:
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                await self._subscribe()
        except (TimeoutError, BrokerUnavailable) as error:
            log.warning("consumer_waits_for_broker", queue=self._queue, reason=str(error))
            return False
        return True

    async def _keep(self, subscribed: bool) -> None:
        backoff = Backoff()
        while True:
            if subscribed and self._channel is not None:
                backoff.reset()
                await self._stay(self._channel)
            subscribed = await self._subscribe_again()
            if not subscribed:
                await backoff.pause()

    async def _stay(self, channel: DeliveryChannel) -> None:
        """Return when the broker does not deliver here any more, or may not."""
        watchdog = Watchdog(self._prefetch)
        while not channel.closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(watchdog.next_look()):
                    await channel.closed.wait()
            await self._close_retired()
            if self._queue is not None and await self._is_doubtful(channel, self._queue, watchdog):
                log.debug("consumer_renewed", queue=self._queue)
                return
        await self._lose(channel)

    async def _is_doubtful(self, channel: DeliveryChannel, queue: str, watchdog: Watchdog) -> bool:
        if channel.closed.is_set() or not watchdog.wants_to_know(channel.completed, channel.unacked):
            return False
        try:
            seen = await call(channel.amqp.queue_declare(queue, passive=True))
        except (BrokerUnavailable, AMQPChannelError) as error:
            log.info("queue_not_seen", queue=queue, reason=str(error))
            channel.lose()
            return False
        return watchdog.is_doubtful(seen.message_count or 0, seen.consumer_count or 0, channel.unacked)

    async def _lose(self, channel: DeliveryChannel) -> None:
        """Drop what the broker will deliver again; what came to a queue of one's own is kept."""
        log.warning("consumer_lost", queue=channel.queue)
        self._channel = None
        if self._queue is None:
            self._leave_over(channel)
        await close_channel(channel)

    def _leave_over(self, channel: DeliveryChannel) -> None:
        """Keep what has arrived; of a queue of one's own that nobody reads, no more than two subscriptions held."""
        self._left_over.extend(channel.arrived)
        while self._queue is None and len(self._left_over) > 2 * self._prefetch:
            self._left_over.popleft()

    async def _subscribe_again(self) -> bool:
        lost = self._channel is None
        try:
            await self._subscribe()
        except NotFound:
            await self._declarer.restore()
            return False
        except BrokerUnavailable as error:
            log.info("consumer_not_restored", queue=self._queue, reason=str(error))
            return False
        if lost:
            log.info("consumer_restored", queue=self._queue)
        return True

    async def _subscribe(self) -> None:
        connection = await self._link.connection()
        self._epoch += 1
        channel = await connection.open_channel(lambda amqp: DeliveryChannel(amqp, connection, self._epoch, self._wake))
        try:
            await self._begin(channel)
        except BaseException:
            await close_channel(channel, CONSUMERS)
            raise
        before, self._channel = self._channel, channel
        self._wake.set()
        if before is not None:
            await self._retire(before)

    async def _retire(self, channel: DeliveryChannel) -> None:
        """Stop a subscription that has a successor; what it has delivered is handled to the end."""
        self._retired.append(channel)
        await cancel_consumer(channel)
        self._leave_over(channel)
        await self._close_retired()

    async def _close_retired(self) -> None:
        for channel in [one for one in self._retired if one.unacked == 0 or one.closed.is_set()]:
            self._retired.remove(channel)
            if channel.closed.is_set() and self._queue is not None:
                self._left_over = deque(one for one in self._left_over if one.epoch != channel.epoch)
            await close_channel(channel)

    async def _begin(self, channel: DeliveryChannel) -> None:
        amqp = channel.amqp
        try:
            await call(amqp.basic_qos(prefetch_count=self._prefetch))
            channel.queue = self._queue if self._queue is not None else await declare_own_queue(amqp, self._bindings)
            consuming = await call(amqp.basic_consume(channel.queue, _ignore, exclusive=self._queue is None))
        except ChannelNotFoundEntity as error:
            raise NotFound(f"no queue {self._queue} or no exchange to bind to: {error}") from error
        except AMQPChannelError as error:
            raise BrokerUnavailable(f"queue {self._queue}: {error}") from error
        channel.consumer_tag = consuming.consumer_tag or ""
        channel.consuming = not channel.closed.is_set()


async def _ignore(_: object) -> None:
    """Deliveries are taken before aiormq sees them."""
