"""The organism's configuration: every version that was in force, and the listeners it names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage import listeners
from xml_pipeline.storage.tables import configurations

if TYPE_CHECKING:
    from xml_pipeline.organism.model import Organism

# Any number that nothing else in the database locks.
_PUBLISH_LOCK = 0x786D_6C63


@dataclass(frozen=True, slots=True)
class Configuration:
    """One version. `digest` covers the file's text and all schemas that come from the code."""

    version: int
    digest: bytes
    text: str


async def publish(connection: AsyncConnection, organism: Organism, *, force: bool = False) -> Configuration:
    """Make this configuration the one in force, unless it is already; `force`: a new version in any case.

    A reload forces, since code may have changed that no schema shows.
    """
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _PUBLISH_LOCK})
    digest = digest_of(organism)
    current = await latest(connection)
    if current is not None and current.digest == digest and not force:
        return current
    values = {"name": organism.name, "digest": digest, "text": organism.text}
    version = await connection.scalar(configurations.insert().values(values).returning(configurations.c.version))
    await listeners.synchronise(
        connection,
        (listeners.ListenerSpec(spec.name, spec.is_agent, spec.window) for spec in organism.listeners.values()),
    )
    return Configuration(version or 0, digest, organism.text)


async def latest(connection: AsyncConnection) -> Configuration | None:
    """The configuration in force, None before the first."""
    columns = (configurations.c.version, configurations.c.digest, configurations.c.text)
    statement = select(*columns).order_by(configurations.c.version.desc()).limit(1)
    row = (await connection.execute(statement)).one_or_none()
    return Configuration(*row) if row else None


async def latest_version(connection: AsyncConnection) -> int:
    """The version in force, 0 before the first: cheap enough to ask each second."""
    return await connection.scalar(text("select max(version) from configurations")) or 0


def digest_of(organism: Organism) -> bytes:
    """What tells two configurations apart."""
    digest = hashlib.sha256()
    for part in _parts(organism):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()


def _parts(organism: Organism) -> Iterator[str]:
    yield organism.text
    for name, listener in sorted(organism.listeners.items()):
        yield name
        yield listener.schema or ""
        for response in listener.responses:
            yield response.xsd
