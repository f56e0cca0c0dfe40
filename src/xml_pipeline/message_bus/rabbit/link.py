"""One connection to RabbitMQ that is kept: opened, watched for silence, and opened again when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

import aiormq
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPChannelError,
    AMQPError,
    AuthenticationError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from yarl import URL

from xml_pipeline.errors import BrokerUnavailable
from xml_pipeline.message_bus.rabbit.tap import Channel, Tap, TapFactory
from xml_pipeline.stopping import BROKER

log = structlog.get_logger(__name__)
T = TypeVar("T")
C = TypeVar("C", bound=Channel)

HEARTBEAT_SECONDS: Final = 10
SILENT_TICKS_ALLOWED: Final = 15  # RabbitMQ says something every five seconds
CONNECT_SECONDS: Final = 5.0
CALL_SECONDS: Final = 10.0
# What aiormq lets out where the other side goes before it has said anything, as proxies do whose broker is gone.
_HUNG_UP: Final = (EOFError, StopAsyncIteration)
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class Backoff:
    """Pauses that double up to a limit, with jitter so that many clients do not come back in one moment."""

    def __init__(self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._next = self._first

    async def pause(self) -> None:
        """Wait, and wait longer the next time."""
        seconds, self._next = self._next, min(self._next * 2, self._longest)
        await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret


async def call(answer: Awaitable[T], seconds: float = CALL_SECONDS) -> T:
    """What the broker answers within `seconds`.

    Raises AMQPChannelError as the broker said it, BrokerUnavailable for everything else that goes wrong. It is waited
    for from outside: aiormq does not end when it is cancelled while it closes towards a broker that reads nothing, and
    a cancelled caller is told apart from what aiormq cancels because its connection was lost.
    """
    asking = asyncio.ensure_future(answer)
    try:
        await asyncio.wait((asking,), timeout=seconds)
    finally:
        if not asking.done():
            asking.cancel()
            asking.add_done_callback(_in_vain)
    if not asking.done():
        raise BrokerUnavailable(f"no answer within {seconds:.0f} seconds")
    return _told(asking)


def _told(asked: asyncio.Future[T]) -> T:
    try:
        return asked.result()
    except asyncio.CancelledError:
        raise BrokerUnavailable("the connection was lost while waiting for an answer") from None
    except AMQPChannelError:
        raise
    except (AMQPError, OSError, RuntimeError, *_HUNG_UP) as error:
        raise BrokerUnavailable(str(error) or type(error).__name__) from error


def _in_vain(asked: asyncio.Future[T]) -> None:
    """Nobody waits for it any more."""
    if not asked.cancelled() and (error := asked.exception()) is not None:
        log.debug("broker_answer_too_late", reason=str(error))


class Connection:
    """An open connection; it ends once, and never comes back."""

    def __init__(self, amqp: AbstractConnection, tap: Tap) -> None:
        self._amqp = amqp
        self.tap = tap
        self.frame_max = amqp.connection_tune.frame_max or 131072
        self.lost = tap.lost
        amqp.closing.add_done_callback(lambda _: tap.abort())

    @property
    def answers(self) -> bool:
        """Whether it is open and the broker was heard of lately."""
        return not self.lost.is_set() and self.tap.silent_ticks < SILENT_TICKS_ALLOWED

    @property
    def server_properties(self) -> Mapping[str, object]:
        """What the broker said of itself."""
        return dict(getattr(self._amqp, "server_properties", None) or {})

    async def open_channel(self, make: Callable[[AbstractChannel], C], *, confirms: bool = False) -> C:
        """Open a channel whose hot frames go to what `make` returns for it."""
        channel = await call(self._amqp.channel(publisher_confirms=confirms, timeout=CALL_SECONDS))
        hot = make(channel)
        detach = self.tap.attach(channel.number, hot)

        def closed(_: object) -> None:
            detach()
            hot.lose()

        channel.closing.add_done_callback(closed)
        return hot

    async def open_plain_channel(self) -> AbstractChannel:
        """Open a channel for declarations and questions."""
        return await call(self._amqp.channel(publisher_confirms=False, timeout=CALL_SECONDS))

    async def watch(self) -> None:
        """Return when the connection is lost; cut it when the broker is silent for too long."""
        while not self.lost.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self.lost.wait()
            self.tap.tick()
            if self.tap.silent_ticks >= SILENT_TICKS_ALLOWED:
                log.warning("broker_silent", seconds=self.tap.silent_ticks)
                self.tap.abort()
                return

    async def close(self) -> None:
        """Say goodbye, or just go when the broker does not listen."""
        try:
            if not self.tap.blocked:
                await call(self._amqp.close(), BROKER)
        except (BrokerUnavailable, AMQPChannelError):
            log.debug("broker_close_unanswered")
        finally:
            self.tap.abort()


async def open_connection(url: str, name: str) -> Connection:
    """Open one connection; raises BrokerUnavailable with one line that says what is wrong and where."""
    factory = TapFactory()
    target = URL(url).update_query(heartbeat=str(HEARTBEAT_SECONDS), name=name)
    try:
        amqp = await call(aiormq.connect(target, transport_factory=factory), CONNECT_SECONDS)
    except BrokerUnavailable as error:
        factory.abort()
        raise BrokerUnavailable(f"RabbitMQ at {place_of(url)} {_reason(error)}") from error
    except asyncio.CancelledError:
        factory.abort()
        raise
    if factory.tap is None:
        raise BrokerUnavailable(f"RabbitMQ at {place_of(url)} gave no connection")
    return Connection(amqp, factory.tap)


class Link:
    """Keeps one connection to the broker; `on_open` prepares each new one before anybody uses it."""

    def __init__(self, url: str, name: str, on_open: Callable[[Connection], Awaitable[None]] | None = None) -> None:
        self._url = url
        self._name = name
        self._on_open = on_open
        self._connection: Connection | None = None
        self._opened = asyncio.Event()
        self._missed = 0
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the first connection and keep it from then on; raises BrokerUnavailable."""
        _quiet_aiormq()
        first = await open_connection(self._url, self._name)
        self._keeper = asyncio.create_task(self._keep(first), name=f"link {self._name}")

    @property
    def answers(self) -> bool:
        """Whether there is a connection and the broker was heard of lately."""
        return self._connection is not None and self._connection.answers

    async def connection(self) -> Connection:
        """The open connection; waits until there is one."""
        while self._connection is None or self._connection.lost.is_set():
            self._opened.clear()
            await self._opened.wait()
        return self._connection

    async def close(self) -> None:
        """End the connection and keep none."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()

    async def _keep(self, first: Connection) -> None:
        """For ever: a link that died would leave a process that looks alive and hears nothing."""
        backoff = Backoff()
        connection: Connection | None = first
        while True:
            try:
                await self._use(connection, backoff)
            except Exception:  # whatever the library lets out: it is told, and tried again
                log.exception("link_failed", link=self._name)
                await backoff.pause()
            connection = None

    async def _use(self, given: Connection | None, backoff: Backoff) -> None:
        connection = given or await self._open(backoff)
        if connection is None:
            return
        if await self._prepare(connection):
            backoff.reset()
            await self._serve(connection)
        else:
            await backoff.pause()

    async def _open(self, backoff: Backoff) -> Connection | None:
        try:
            return await open_connection(self._url, self._name)
        except BrokerUnavailable as error:
            self._missed += 1
            level = logging.WARNING if self._missed == 1 else logging.DEBUG
            log.log(level, "broker_unreachable", link=self._name, attempt=self._missed, reason=str(error))
            await backoff.pause()
            return None

    async def _prepare(self, connection: Connection) -> bool:
        if self._on_open is None:
            return True
        try:
            await self._on_open(connection)
        except BrokerUnavailable as error:
            log.warning("broker_not_prepared", link=self._name, reason=str(error))
            await connection.close()
            return False
        except BaseException:
            await connection.close()
            raise
        return True

    async def _serve(self, connection: Connection) -> None:
        self._connection = connection
        self._opened.set()
        self._missed = 0
        log.info("broker_connected", link=self._name)
        await connection.watch()
        log.warning("broker_connection_lost", link=self._name)
        self._connection = None
        connection.tap.abort()


def place_of(url: str) -> str:
    """Where a broker is, without user and password: for messages to people."""
    parts = URL(url)
    return f"{parts.host}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}{parts.path.rstrip('/')}"


def _reason(error: BrokerUnavailable) -> str:
    if isinstance(error.__cause__, AuthenticationError | ProbableAuthenticationError):
        return "refused the login"
    if isinstance(error.__cause__, InvalidFrameError):
        # What aiormq makes of a broker that closes instead of opening: it knows the user, but not where to.
        return "refused the connection: it has no such virtual host, or not for this user"
    return f"does not answer: {error}"


def _quiet_aiormq() -> None:
    """Each loss is logged here, once; aiormq would add tracebacks of its own unless somebody set its level."""
    logger = logging.getLogger("aiormq")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
