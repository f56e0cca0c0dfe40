"""API keys for tests, made as the command line makes them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from xml_pipeline.access.keys import new_key
from xml_pipeline.access.roles import Role
from xml_pipeline.storage import api_keys
from xml_pipeline.storage.database import Database


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was made, and its secret."""

    id: UUID
    secret: str

    @property
    def bearer(self) -> dict[str, str]:
        """As what most send it."""
        return {"Authorization": f"Bearer {self.secret}"}


async def make_key(database: Database, role: Role = Role.ADMIN, *, name: str = "test") -> Key:
    """A key in the database."""
    key = new_key(name, role)
    async with database.begin() as connection:
        await api_keys.create(connection, key, actor="test")
    return Key(key.id, key.secret)


async def revoke_key(database: Database, key: Key) -> None:
    """Revoke it."""
    async with database.begin() as connection:
        assert await api_keys.revoke(connection, key.id, actor="test") is not None
