"""Publishing in batches: many messages in one write, one wait for all their confirms."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import structlog
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPChannelError, ChannelNotFoundEntity

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.limits import is_publishable
from xml_pipeline.message_bus.port import Outgoing, Published
from xml_pipeline.message_bus.rabbit import frames
from xml_pipeline.message_bus.rabbit.link import Connection, Link, call

log = structlog.get_logger(__name__)

_WRITE_BYTES: Final = 512 * 1024  # about what goes into one write before the socket is asked whether it keeps up


class Batch:
    """Publishes with consecutive tags that went out in one write, and what became of each."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.last = first + count - 1
        self.outcomes: list[Published | None] = [None] * count
        self._settled = 0  # all before this place have an outcome
        self._left = count
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, tag: int, outcome: Published) -> None:
        """Note the outcome of one publish; the first one told counts."""
        place = tag - self.first
        if self.outcomes[place] is None:
            self.outcomes[place] = outcome
            self._count_down(1)

    def settle_up_to(self, tag: int, outcome: Published) -> None:
        """Note the outcome of all publishes up to a tag that have none yet."""
        end = min(tag, self.last) - self.first + 1
        open_places = [place for place in range(self._settled, end) if self.outcomes[place] is None]
        for place in open_places:
            self.outcomes[place] = outcome
        self._settled = max(self._settled, end)
        self._count_down(len(open_places))

    def give_up(self) -> None:
        """Nothing more will be told of this batch."""
        self.settle_up_to(self.last, Published.UNKNOWN)

    def _count_down(self, settled: int) -> None:
        self._left -= settled
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)


class ConfirmChannel:
    """A channel in confirm mode: gives each publish its tag, and settles what the broker tells of it."""

    def __init__(self, number: int, connection: Connection) -> None:
        self._number = number
        self._connection = connection
        self._token = secrets.token_hex(6)
        self._last_tag = 0
        self._batches: deque[Batch] = deque()
        self._returning = False
        self.closed = False

    @property
    def writable(self) -> bool:
        """Whether what is written now leaves soon."""
        return not self.closed and self._connection.tap.writable

    def send(self, messages: Sequence[Outgoing]) -> Batch:
        """Write publishes, each with a fresh message id from which a return tells which one it was."""
        batch = Batch(self._last_tag + 1, len(messages))
        pieces = [
            frames.encode_publish(self._number, message, f"{self._token}.{tag}", self._connection.frame_max)
            for tag, message in enumerate(messages, batch.first)
        ]
        self._last_tag = batch.last
        self._batches.append(batch)
        self._connection.tap.write(b"".join(pieces))
        return batch

    def forget(self, batch: Batch) -> None:
        """Nobody waits for this batch any more."""
        batch.give_up()
        if batch in self._batches:
            self._batches.remove(batch)

    def lose(self) -> None:
        """The channel is closed: what was not told stays unknown."""
        self.closed = True
        for batch in self._batches:
            batch.give_up()
        self._batches.clear()

    def take_method(self, method: tuple[int, int], data: bytes, start: int) -> bool:
        """Take confirms and returns."""
        if method == frames.RETURN:
            self._returning = True
            return True
        if method not in (frames.ACK, frames.NACK):
            return False
        tag, multiple = frames.decode_confirm(data, start)
        self._settle(tag, multiple, Published.CONFIRMED if method == frames.ACK else Published.REFUSED)
        return True

    def take_header(self, data: bytes, start: int, end: int) -> None:
        """Take the header of a returned message, whose message id tells its tag."""
        message_id = frames.decode_properties(data, start, end).message_id
        token, _, tag = (message_id or "").partition(".")
        if self._returning and token == self._token and tag.isdigit():
            self._settle(int(tag), multiple=False, outcome=Published.UNROUTABLE)
        self._returning = False

    def take_body(self, part: bytes) -> None:
        """Pass over the body of a returned message."""

    def _settle(self, tag: int, multiple: bool, outcome: Published) -> None:
        for batch in self._batches:
            if batch.first > tag:
                break
            if multiple:
                batch.settle_up_to(tag, outcome)
            elif tag <= batch.last:
                batch.settle(tag, outcome)
        while self._batches and self._batches[0].done.done():
            self._batches.popleft()


class MissingExchange(Exception):
    """An exchange that is published to does not exist on the broker."""


class Publisher:
    """Publishes over one link, with a channel for each exchange.

    A publish to a missing exchange closes its channel and voids what is in flight there; so each exchange is looked
    for before its channel is used, and has no neighbours on it.
    """

    def __init__(self, link: Link, restore_exchange: Callable[[str], Coroutine[Any, Any, bool]]) -> None:
        self._link = link
        self._restore_exchange = restore_exchange
        self._channels: dict[str, ConfirmChannel] = {}
        self._opening = asyncio.Lock()

    async def publish(self, messages: Sequence[Outgoing], timeout: float) -> list[Published]:
        """Publish and wait for confirms, at most `timeout` seconds; what is not told by then is UNKNOWN."""
        outcomes = [Published.UNKNOWN if is_publishable(message) else Published.REFUSED for message in messages]
        sent: list[tuple[ConfirmChannel, Batch, list[int]]] = []
        try:
            async with asyncio.timeout(timeout):
                await self._send(messages, outcomes, sent)
                for _, batch, _ in sent:
                    await batch.done
        except TimeoutError:
            log.warning("publish_timed_out", messages=len(messages), seconds=timeout)
        except BrokerUnavailable as error:
            log.warning("publish_interrupted", messages=len(messages), reason=str(error))
        finally:
            for channel, batch, places in sent:
                channel.forget(batch)
                for place, outcome in zip(places, batch.outcomes, strict=True):
                    outcomes[place] = outcome or Published.UNKNOWN
        return outcomes

    async def _send(
        self,
        messages: Sequence[Outgoing],
        outcomes: list[Published],
        sent: list[tuple[ConfirmChannel, Batch, list[int]]],
    ) -> None:
        for exchange, places in _chunks(messages, outcomes):
            try:
                channel = await self._writable_channel(exchange)
            except MissingExchange:
                for place in places:
                    outcomes[place] = Published.UNROUTABLE
                continue
            sent.append((channel, channel.send([messages[place] for place in places]), places))

    async def _writable_channel(self, exchange: str) -> ConfirmChannel:
        """A channel into which one write fits now: of all who waited for it, the first may fill the socket again."""
        while True:
            await (await self._link.connection()).tap.wait_writable()
            channel = await self._channel(exchange)
            if channel.writable:
                return channel

    async def _channel(self, exchange: str) -> ConfirmChannel:
        channel = self._channels.get(exchange)
        if channel is not None and not channel.closed:
            return channel
        async with self._opening:
            channel = self._channels.get(exchange)
            if channel is None or channel.closed:
                channel = self._channels[exchange] = await self._open(exchange)
            return channel

    async def _open(self, exchange: str) -> ConfirmChannel:
        connection = await self._link.connection()
        if exchange and not await _exists(connection, exchange) and not await self._restore_exchange(exchange):
            raise MissingExchange(exchange)
        return await connection.open_channel(lambda made: ConfirmChannel(made.number, connection), confirms=True)


async def _exists(connection: Connection, exchange: str) -> bool:
    channel: AbstractChannel = await connection.open_plain_channel()
    try:
        await call(channel.exchange_declare(exchange, passive=True))
    except (ChannelNotFoundEntity, ValueError):  # ValueError: no exchange can have such a name
        return False
    except AMQPChannelError as error:
        raise BrokerUnavailable(f"exchange {exchange}: {error}") from error
    await call(channel.close())
    return True


def _chunks(messages: Sequence[Outgoing], outcomes: Sequence[Published]) -> list[tuple[str, list[int]]]:
    """The places of the messages to send, by exchange, in order, in pieces of about one write each."""
    chunks: list[tuple[str, list[int]]] = []
    current: dict[str, tuple[list[int], int]] = {}
    for place, message in enumerate(messages):
        if outcomes[place] is Published.REFUSED:
            log.warning("publish_refused", exchange=message.exchange[:64], size=len(message.body))
            continue
        places, size = current.get(message.exchange, ([], _WRITE_BYTES))
        if size >= _WRITE_BYTES:
            places, size = [], 0
            chunks.append((message.exchange, places))
        places.append(place)
        current[message.exchange] = (places, size + len(message.body))
    return chunks
