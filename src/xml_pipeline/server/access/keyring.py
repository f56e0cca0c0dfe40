"""The keys that are in force, as a gateway knows them: read from the database each second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog

from xml_pipeline.access.keys import ApiKey, hash_of
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.health.pulse import beat
from xml_pipeline.storage import api_keys
from xml_pipeline.storage.api_keys import KeysInForce
from xml_pipeline.storage.database import Database

log = structlog.get_logger(__name__)

# Seconds between two readings, so that a revoked key is refused within two; and between those that unknown keys cause.
_INTERVAL = 1.0
_LEAST_INTERVAL = 0.05
# Seconds that a reading may take, and that keys are believed while the database cannot be read.
_READ_WITHIN = 5.0
BELIEVED_FOR = 15.0
# Seconds between two notes of one key's use.
_NOTE_EVERY = 60.0


class Keyring:
    """Finds keys by their secrets. A new one is found at once, since an unknown one is looked for in the database."""

    def __init__(self, db: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db.within(_READ_WITHIN)
        self._clock = clock
        self._keys = KeysInForce({}, any_made=False)
        self._ids: frozenset[UUID] = frozenset()
        self._read_at = float("-inf")
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._used: set[UUID] = set()
        self._noted: dict[UUID, float] = {}
        self._listeners: list[Callable[[], None]] = []

    @property
    def any_made(self) -> bool:
        """Whether there is or was a key."""
        return self._keys.any_made

    @property
    def any_in_force(self) -> bool:
        """Whether anybody has a key that is not revoked."""
        return bool(self._keys.by_hash)

    @property
    def believed(self) -> bool:
        """Whether the last reading is young enough to go by."""
        return self._clock() - self._read_at <= BELIEVED_FOR

    def holds(self, key: ApiKey) -> bool:
        """Whether a key that was found is still in force, as far as is known."""
        return key.id in self._ids

    def on_reading(self, listener: Callable[[], None]) -> None:
        """Call it after each reading, also after one that failed."""
        self._listeners.append(listener)

    async def find(self, secret: bytes) -> ApiKey | None:
        """The key of a secret; None for one that is unknown or revoked. Raises DatabaseUnavailable. Needs `run`."""
        hash_ = hash_of(secret)
        if hash_ not in self._keys.by_hash or not self.believed:
            await self._next_reading()
        key = self._keys.by_hash.get(hash_)
        if key is not None:
            self._used.add(key.id)
        return key

    async def read(self) -> None:
        """Read them now. Raises DatabaseUnavailable."""
        began = self._clock()
        async with self._db.begin() as connection:
            keys = await api_keys.read_in_force(connection)
        self._keys, self._read_at = keys, began
        self._ids = frozenset(key.id for key in keys.by_hash.values())

    async def run(self) -> None:
        """Read again and again, until cancelled."""
        while True:
            beat()
            await self._read_for_all()
            await self._note_uses()
            await self._pause()

    async def _next_reading(self) -> None:
        """Until one that begins from now on has ended."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._wanted.set()
        await waiting

    async def _read_for_all(self) -> None:
        """One reading serves all who wait; one that fails tells those too who came while it went on."""
        waiting, self._waiting = self._waiting, []
        self._wanted.clear()
        try:
            await self.read()
        except DatabaseUnavailable as error:
            log.warning("keys_not_read", error=str(error))
            late, self._waiting = self._waiting, []
            _tell([*waiting, *late], error)
        else:
            _tell(waiting)
        for listener in self._listeners:
            listener()

    async def _note_uses(self) -> None:
        now = self._clock()
        self._noted = {id_: at for id_, at in self._noted.items() if now - at < _NOTE_EVERY}
        used, self._used = self._used - self._noted.keys(), set()
        if not used:
            return
        self._noted |= dict.fromkeys(used, now)
        try:
            async with self._db.begin() as connection:
                await api_keys.note_use(connection, used)
        except DatabaseUnavailable as error:
            log.debug("key_use_not_noted", error=str(error))

    async def _pause(self) -> None:
        await asyncio.sleep(_LEAST_INTERVAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_INTERVAL - _LEAST_INTERVAL):
                await self._wanted.wait()


@asynccontextmanager
async def keyring_of(db: Database) -> AsyncIterator[Keyring]:
    """A keyring with a connection of its own: however much a gateway has to do, a revoked key is refused in time."""
    own = db.apart()
    try:
        yield Keyring(own)
    finally:
        await own.close()


def _tell(waiting: Iterable[asyncio.Future[None]], error: DatabaseUnavailable | None = None) -> None:
    for future in waiting:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
