"""One channel with one consumer: deliveries put together as they arrive, acks of many in one write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import structlog
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPChannelError

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.port import Incoming
from xml_pipeline.message_bus.rabbit import frames
from xml_pipeline.message_bus.rabbit.link import CALL_SECONDS, Connection, call

log = structlog.get_logger(__name__)


class DeliveryChannel:
    """A channel with one consumer: puts deliveries together, and knows which tags are not acked yet."""

    def __init__(self, amqp: AbstractChannel, connection: Connection, epoch: int, wake: asyncio.Event) -> None:
        self.amqp = amqp
        self.epoch = epoch
        self.queue = ""
        self.consumer_tag = ""
        self.consuming = False
        self.completed = 0
        self.closed = asyncio.Event()
        self.arrived: deque[Incoming] = deque()
        self._connection = connection
        self._wake = wake
        self._unacked: dict[int, None] = {}
        self._delivery: frames.Delivery | None = None
        self._properties = frames.Properties()
        self._parts: list[bytes] = []
        self._missing = 0
        amqp.on_consumer_cancel_callbacks.add(lambda _: self.lose())

    def lose(self) -> None:
        """The broker delivers no more here."""
        self.consuming = False
        self.closed.set()
        self._wake.set()

    def take_method(self, method: tuple[int, int], data: bytes, start: int) -> bool:
        """Take the beginning of a delivery."""
        if method != frames.DELIVER:
            return False
        self._delivery = frames.decode_deliver(data, start)
        return True

    def take_header(self, data: bytes, start: int, end: int) -> None:
        """Take a delivery's properties and the size of its body."""
        self._properties = frames.decode_properties(data, start, end)
        self._missing = frames.decode_body_size(data, start)
        if self._missing == 0:
            self._complete()

    def take_body(self, part: bytes) -> None:
        """Take a part of a body; the last one completes the delivery."""
        self._parts.append(part)
        self._missing -= len(part)
        if self._missing <= 0:
            self._complete()

    @property
    def unacked(self) -> int:
        """How many deliveries are held."""
        return len(self._unacked)

    def ack(self, tags: Iterable[int]) -> None:
        """Acknowledge those of the tags that are not acked yet, in one write."""
        settled = self._settle(tags)
        if settled:
            self._connection.tap.write(frames.encode_acks(self.amqp.number, settled))

    def reject(self, tags: Iterable[int], *, requeue: bool) -> None:
        """Give back, or dead-letter, in one write."""
        settled = self._settle(tags)
        if settled:
            self._connection.tap.write(frames.encode_nacks(self.amqp.number, settled, requeue=requeue))

    def _settle(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """The fewest (tag, multiple) that settle these tags and no other."""
        wanted = {tag for tag in tags if tag in self._unacked}
        last = 0
        for tag in self._unacked:
            if tag not in wanted:
                break
            last = tag
        settled = [(last, True)] if last else []
        settled += [(tag, False) for tag in sorted(wanted) if tag > last]
        for tag in wanted:
            del self._unacked[tag]
        return settled

    def _complete(self) -> None:
        delivery, properties = self._delivery, self._properties
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._delivery, self._parts = None, []
        if delivery is None:
            return
        self.completed += 1
        self._unacked[delivery.tag] = None
        self.arrived.append(
            Incoming(
                tag=delivery.tag,
                epoch=self.epoch,
                queue=self.queue,
                exchange=delivery.exchange,
                routing_key=delivery.routing_key,
                body=body,
                headers=properties.headers,
                redelivered=delivery.redelivered,
                correlation_id=properties.correlation_id,
                reply_to=properties.reply_to,
            )
        )
        self._wake.set()


async def cancel_consumer(channel: DeliveryChannel, seconds: float = CALL_SECONDS) -> None:
    """Have the broker deliver no more here; what was delivered can still be acked."""
    channel.consuming = False
    try:
        await call(channel.amqp.basic_cancel(channel.consumer_tag), seconds)
    except (BrokerUnavailable, AMQPChannelError) as error:
        log.debug("consumer_cancel_unanswered", reason=str(error))


async def close_channel(channel: DeliveryChannel, seconds: float = CALL_SECONDS) -> None:
    """Close a channel; what it holds unacked goes back to its queue."""
    try:
        await call(channel.amqp.close(), seconds)
    except (BrokerUnavailable, AMQPChannelError) as error:
        log.debug("channel_close_unanswered", reason=str(error))
