"""PostgreSQL's form of a password that cannot be read back: statements with it may stand in a server's log."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode

_ROUNDS = 4096
_SALT_BYTES = 16


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """`SCRAM-SHA-256$...`, as `create role ... password` takes it; of an ASCII password (others need SASLprep)."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_ROUNDS}:{_text(salt)}${_text(stored)}:{_text(server)}"


def _text(data: bytes) -> str:
    return b64encode(data).decode()
