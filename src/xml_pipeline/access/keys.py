"""API keys: a secret that its owner alone has, and what is kept of it.

A secret is 256 random bits, so one round of SHA-256 hides it for good: there is no list of likely ones to try, which is
what slow, salted hashes defend passwords from. A hash without salt is found by one look into a table, and costs next to
nothing. Nor does the time of that look tell anything: who does not have the secret cannot aim at a hash.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from uuid import UUID, uuid4

from xml_pipeline.access.roles import Role
from xml_pipeline.errors import InvalidInput

# Scanners of logs and repositories know a secret by how it begins.
PREFIX = "xp_"
_BYTES = 32
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is about to be stored. `secret` is shown once; it is no part of any text about the key."""

    id: UUID
    name: str
    role: Role
    secret: str = field(repr=False)

    @property
    def hash(self) -> bytes:
        """What is stored of the secret."""
        return hash_of(self.secret.encode())


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored, without what is kept of its secret. `last_used_at` is exact to a minute."""

    id: UUID
    name: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


def new_key(name: str, role: Role) -> NewKey:
    """A key with a secret that nobody has had. Raises InvalidInput for a name that cannot be shown in one line."""
    if not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a key's name is 1 to {_LONGEST_NAME} printable characters, and not only blanks")
    return NewKey(uuid4(), name, role, PREFIX + secrets.token_urlsafe(_BYTES))


def hash_of(secret: bytes) -> bytes:
    """32 bytes by which a secret is known again."""
    return sha256(secret).digest()
