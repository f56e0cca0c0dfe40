"""Users of the broker as a document of definitions, which RabbitMQ imports: over HTTP, by rabbitmqctl, at its start."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xml_pipeline.message_bus.rights import BrokerRights

_SALT_BYTES = 4


@dataclass(frozen=True, slots=True)
class BrokerUser:
    """One user, who may enter one virtual host."""

    name: str
    password: str
    rights: BrokerRights


def definitions(users: Sequence[BrokerUser], vhost: str) -> dict[str, Any]:
    """What makes these users, or gives them these passwords and rights. Passwords are in it as salted hashes."""
    return {
        "users": [_user(user) for user in users],
        "permissions": [_permission(user, vhost) for user in users],
        "topic_permissions": [_topic_permission(user, vhost) for user in users],
    }


def password_hash(password: str, salt: bytes | None = None) -> str:
    """RabbitMQ's form of a password that cannot be read back: salted SHA-256."""
    salt = salt or secrets.token_bytes(_SALT_BYTES)
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _user(user: BrokerUser) -> dict[str, Any]:
    return {
        "name": user.name,
        "password_hash": password_hash(user.password),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
        "limits": {},
    }


def _permission(user: BrokerUser, vhost: str) -> dict[str, Any]:
    rights = user.rights
    return {
        "user": user.name,
        "vhost": vhost,
        "configure": rights.configure,
        "write": rights.write,
        "read": rights.read,
    }


def _topic_permission(user: BrokerUser, vhost: str) -> dict[str, Any]:
    topic = user.rights.topic
    return {"user": user.name, "vhost": vhost, "exchange": topic.exchange, "write": topic.write, "read": topic.read}
