"""API keys: made, listed, revoked, and read by the gateways."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import RowMapping, exists, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.access.keys import ApiKey, NewKey
from xml_pipeline.access.roles import Role
from xml_pipeline.storage import audit
from xml_pipeline.storage.tables import api_keys

# Any number that nothing else in the database locks.
_FIRST_KEY_LOCK = 0x786D_6B79

_COLUMNS = (
    api_keys.c.id,
    api_keys.c.name,
    api_keys.c.role,
    api_keys.c.created_at,
    api_keys.c.revoked_at,
    api_keys.c.last_used_at,
)

# Gateways note the same keys at the same time: whom another one notes just now needs no second note.
_NOTE_USE = text("""
    update api_keys set last_used_at = now() where id in (
        select id from api_keys
        where id = any(:ids) and coalesce(last_used_at < now() - interval '1 minute', true)
        for update skip locked
    )
""")


@dataclass(frozen=True, slots=True)
class KeysInForce:
    """The keys that are not revoked, by the hashes of their secrets; `any_made`: there is or was a key."""

    by_hash: dict[bytes, ApiKey]
    any_made: bool


async def create(connection: AsyncConnection, key: NewKey, *, actor: str) -> None:
    """Store a key. It counts once that is committed."""
    values = {"id": key.id, "name": key.name, "role": key.role.value, "secret_hash": key.hash}
    await connection.execute(api_keys.insert().values(values))
    await _note(connection, "key-create", actor, key.id, key.name, key.role)


async def lock_first(connection: AsyncConnection) -> bool:
    """Whether no key is in force, and nobody else makes the first one before this transaction ends."""
    await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _FIRST_KEY_LOCK})
    found = await connection.scalar(select(exists().where(api_keys.c.revoked_at.is_(None))))
    return not found


async def revoke(connection: AsyncConnection, id_: UUID, *, actor: str) -> ApiKey | None:
    """Revoke a key for good; None for one that is not known. One that was revoked stays as it is."""
    open_ = (api_keys.c.id == id_) & api_keys.c.revoked_at.is_(None)
    revoked = api_keys.update().where(open_).values(revoked_at=func.now()).returning(*_COLUMNS)
    if row := (await connection.execute(revoked)).mappings().one_or_none():
        key = _key(row)
        await _note(connection, "key-revoke", actor, key.id, key.name, key.role)
        return key
    row = (await connection.execute(select(*_COLUMNS).where(api_keys.c.id == id_))).mappings().one_or_none()
    return _key(row) if row else None


async def list_keys(connection: AsyncConnection) -> list[ApiKey]:
    """All keys, the newest first, those that are revoked among them."""
    rows = await connection.execute(select(*_COLUMNS).order_by(api_keys.c.created_at.desc(), api_keys.c.id))
    return [_key(row) for row in rows.mappings()]


async def read_in_force(connection: AsyncConnection) -> KeysInForce:
    """What a gateway has to know."""
    rows = await connection.execute(select(api_keys.c.secret_hash, *_COLUMNS).where(api_keys.c.revoked_at.is_(None)))
    by_hash = {row["secret_hash"]: _key(row) for row in rows.mappings()}
    any_made = bool(by_hash) or bool(await connection.scalar(select(exists(select(api_keys.c.id)))))
    return KeysInForce(by_hash, any_made)


async def note_use(connection: AsyncConnection, ids: Collection[UUID]) -> None:
    """Note that these keys are in use, where that was not noted within the last minute."""
    await connection.execute(_NOTE_USE, {"ids": list(ids)})


def _key(row: RowMapping) -> ApiKey:
    return ApiKey(**{column.name: row[column] for column in _COLUMNS} | {"role": Role(row[api_keys.c.role])})


async def _note(connection: AsyncConnection, action: str, actor: str, id_: UUID, name: str, role: Role) -> None:
    detail = {"name": name, "role": role.value}
    await audit.record(connection, actor=actor, action=action, subject=str(id_), detail=detail)
