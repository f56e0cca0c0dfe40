"""Webhooks as the Standard Webhooks specification has them: signatures, and when to try again. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from uuid import UUID

# What a webhook gets until it is given up, in seconds, and its waits between tries.
GIVEN_UP_AFTER = 24 * 3600.0
FIRST_WAIT = 2.0
LONGEST_WAIT = 3600.0
_PREFIX = "whsec_"


def headers_of(secret: str, id_: UUID, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that tell a receiver which message this is, of when, and that it is ours."""
    signed = f"{id_}.{timestamp}.".encode() + body
    digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": str(id_),
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: base64 behind `whsec_`, else its bytes."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return secret.encode()


def wait_after(attempt: int, age: float, jitter: float) -> float | None:
    """Seconds until the next try, None where it is given up. `jitter` is a number of chance, from 0 to 1."""
    if age >= GIVEN_UP_AFTER:
        return None
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 16))
    return longest * (0.75 + 0.5 * jitter)
