"""What every bus refuses before it sends: one message that a broker would not take must not spoil its neighbours."""

from __future__ import annotations

from xml_pipeline.message_bus.port import Outgoing

MAX_BODY_BYTES = 16 * 1024 * 1024  # what RabbitMQ 4 takes at most, unless configured
MAX_NAME_BYTES = 255
MAX_HEADERS_BYTES = 64 * 1024  # all properties have to fit into one frame
_INT64 = range(-(2**63), 2**63)


def is_publishable(message: Outgoing) -> bool:
    """Whether a broker can carry the message: its size, and the length of its names."""
    return (
        len(message.body) <= MAX_BODY_BYTES
        and _is_name(message.exchange)
        and _is_name(message.routing_key)
        and _is_name(message.correlation_id or "")
        and _is_name(message.reply_to or "")
        and (not message.headers or _are_headers(message))
    )


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME_BYTES and (text.isascii() or len(text.encode()) <= MAX_NAME_BYTES)


def _are_headers(message: Outgoing) -> bool:
    size = 0
    for key, value in message.headers.items():
        if not _is_name(key) or (isinstance(value, int) and value not in _INT64):
            return False
        size += len(key) + (8 if isinstance(value, int) else len(value.encode()))
    return size <= MAX_HEADERS_BYTES
