"""How a webhook's news are signed, and when they are sent again: as Standard Webhooks says. No I/O."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from xml_pipeline.errors import InvalidInput

# Seconds.
GIVE_UP_AFTER = 24 * 3600.0
_FIRST_WAIT = 5.0
_LONGEST_WAIT = 3600.0
_JITTER = 0.2
_MOST_DOUBLINGS = 20
_BASE64_PREFIX = "whsec_"


class WebhookSecretUnusable(InvalidInput):
    """There is no secret to sign with."""

    code = "webhook-secret"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is posted."""

    headers: Mapping[str, str]
    body: bytes


def read_secret(variable: str, environment: Mapping[str, str]) -> bytes:
    """The key that a variable of the environment holds: after `whsec_` in base64, else its bytes.

    Raises WebhookSecretUnusable.
    """
    value = environment.get(variable, "").strip()
    if not value:
        raise WebhookSecretUnusable(f"{variable} is not set: set it to the secret that the webhook's receiver knows")
    if not value.startswith(_BASE64_PREFIX):
        return value.encode()
    try:
        key = base64.b64decode(value.removeprefix(_BASE64_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise WebhookSecretUnusable(f"{variable} is not usable: what follows {_BASE64_PREFIX} has to be base64")
    return key


def letter(id_: UUID, body: Mapping[str, Any], *, at: datetime, key: bytes) -> Letter:
    """The news with this id, signed as sent at that time. The same news have the same body each time."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    timestamp = str(int(at.timestamp()))
    headers = {
        "content-type": "application/json",
        "webhook-id": str(id_),
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(str(id_), timestamp, content, key),
    }
    return Letter(headers, content)


def signature(id_: str, timestamp: str, body: bytes, key: bytes) -> str:
    """Of id, time and body; a receiver makes the same one, and compares."""
    signed = b".".join((id_.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def next_wait(attempt: int, age: float, chance: float) -> float | None:
    """Seconds until the next attempt after the `attempt`th has failed; None: it is given up.

    `age`: seconds since the news; `chance`, 0 to 1, decides on the jitter.
    """
    doubled = _FIRST_WAIT * 2 ** min(attempt - 1, _MOST_DOUBLINGS)
    wait = min(doubled, _LONGEST_WAIT) * (1 + _JITTER * (2 * chance - 1))
    return wait if age + wait <= GIVE_UP_AFTER else None
