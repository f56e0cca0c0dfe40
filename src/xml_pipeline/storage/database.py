"""The connection to PostgreSQL: a pool with a timeout on everything, and one error for a database that is gone."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.stopping import DATABASE
from xml_pipeline.storage.dsn import Dsn, parse_dsn

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 30.0
# A client that was suspended inside a transaction holds its row locks: the server ends its session.
_IDLE_IN_TRANSACTION = "8s"
_SETTINGS = {
    "idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION,
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "jit": "off",
}
_FAILURES = (
    OSError,
    exc.TimeoutError,
    exc.DBAPIError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A connection whose server ended its session just then answers with this.
    asyncpg.InternalClientError,
)
# SQLSTATEs that say nothing about the statement: connection, login, resources; a server that is told to stop something
# (57), that cannot read or write its files (58), that takes no writes for now (25006), that ended a transaction for its
# age (25P03, 25P04).
_UNAVAILABLE = ("08", "28", "3D", "53", "57", "58", "25006", "25P03", "25P04")
_Sessions = WeakSet["asyncpg.Connection[Any]"]


_SNAPSHOT = text("set transaction isolation level repeatable read, read only")


class Database:
    """A pool of connections. Every failure to reach the server is DatabaseUnavailable; the next use connects again."""

    def __init__(
        self,
        new_engine: Callable[..., AsyncEngine],
        engine: AsyncEngine,
        dsn: Dsn,
        sessions: _Sessions,
        *,
        transaction_timeout: float | None = None,
    ) -> None:
        self._new_engine = new_engine
        self._engine = engine
        self._dsn = dsn
        self._sessions = sessions
        self._transaction_timeout = transaction_timeout

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        pool_size: int = 5,
        max_overflow: int = 5,
        application_name: str = "xml-pipeline",
        connect_timeout: float = CONNECT_TIMEOUT,
        command_timeout: float | None = COMMAND_TIMEOUT,
    ) -> Database:
        """Prepare a pool for a `postgresql://` URL; connections are made when used. Timeouts are in seconds.

        Raises InvalidInput for a URL that cannot be read.
        """
        dsn = parse_dsn(url)
        sessions: _Sessions = WeakSet()
        engine = partial(
            create_async_engine,
            "postgresql+asyncpg://",
            async_creator=_creator(dsn, application_name, connect_timeout, command_timeout, sessions),
            pool_timeout=connect_timeout,
            pool_pre_ping=True,
            hide_parameters=True,  # they are payloads, and errors are logged
        )
        return cls(engine, engine(pool_size=pool_size, max_overflow=max_overflow), dsn, sessions)

    def apart(self) -> Database:
        """One more connection to the same server, for what must not wait while the pool is used up.

        Its owner closes it; `cut` cuts those of both.
        """
        return Database(self._new_engine, self._new_engine(pool_size=1, max_overflow=0), self._dsn, self._sessions)

    def within(self, seconds: float) -> Database:
        """The same pool, for those who cannot wait: a transaction that takes longer in all is given up."""
        return Database(self._new_engine, self._engine, self._dsn, self._sessions, transaction_timeout=seconds)

    @property
    def place(self) -> str:
        """Where the database is, without user and password: for messages to people."""
        return self._dsn.place

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end, rolled back on any error. Raises DatabaseUnavailable.

        Whether it was committed is unknown where that is raised at its end.
        """
        with self._failures():
            async with asyncio.timeout(self._transaction_timeout), self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncConnection]:
        """One connection, whose transactions the caller begins and ends himself. Raises DatabaseUnavailable."""
        with self._failures():
            async with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except _FAILURES as error:
            reason = _why_unavailable(error)
            if reason is None:
                raise
            raise DatabaseUnavailable(f"PostgreSQL at {self.place} does not answer: {reason}") from error

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that reads, and sees in all its statements what was committed when the first one began.

        Raises DatabaseUnavailable.
        """
        async with self.begin() as connection:
            await connection.execute(_SNAPSHOT)
            yield connection

    async def ping(self) -> None:
        """Ask the server for a sign of life. Raises DatabaseUnavailable."""
        async with self.begin() as connection:
            await connection.execute(text("select 1"))

    def cut(self) -> None:
        """Cut all connections: what waits for an answer fails with DatabaseUnavailable now."""
        for session in tuple(self._sessions):
            session.terminate()

    async def close(self) -> None:
        """Close all connections, with a goodbye to a server that answers; idempotent."""
        closing = asyncio.ensure_future(self._engine.dispose())
        try:
            done, _ = await asyncio.wait({closing}, timeout=DATABASE)
            if not done:
                self.cut()
            await closing
        finally:
            closing.cancel()


def _creator(
    dsn: Dsn,
    application_name: str,
    connect_timeout: float,
    command_timeout: float | None,
    sessions: _Sessions,
) -> Callable[[], Awaitable[asyncpg.Connection[Any]]]:
    async def connect() -> asyncpg.Connection[Any]:
        settings = {**_SETTINGS, "application_name": application_name, **dsn.settings}
        session = await asyncpg.connect(
            host=dsn.host,
            port=dsn.port,
            user=dsn.user,
            password=dsn.password,
            database=dsn.database,
            ssl=dsn.ssl,
            timeout=connect_timeout,
            command_timeout=command_timeout,
            server_settings=settings,
        )
        sessions.add(session)
        return session

    return connect


def _why_unavailable(error: Exception) -> str | None:
    """One line about why the server cannot be used, None for an error of the statement itself."""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, (TimeoutError, exc.TimeoutError)):
        return "it took too long"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return str(error)
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    state = getattr(original, "sqlstate", None) or ""
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    if lost or state.startswith(_UNAVAILABLE):
        return _first_line(original)
    return None


def _first_line(error: BaseException | None) -> str:
    lines = str(error).splitlines()
    # SQLAlchemy's adapter puts the driver's class before the message.
    return lines[0].rsplit(">: ", 1)[-1] if lines else type(error).__name__
