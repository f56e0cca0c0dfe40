"""What arrives on the usage queue: parsed, and refused where the database could not keep it."""

from __future__ import annotations

from pydantic import ValidationError

from xml_pipeline.errors import Fault, InvalidPayload
from xml_pipeline.message_bus.messages import HoldRelease, HoldRequest, UsageEvent, ledger_message

# What PostgreSQL's integer holds, and more tokens than any call has.
MAX_TOKENS = 2**31 - 1
MAX_LIFETIME = 24 * 3600.0
MAX_LATENCY_MS = 7 * 24 * 3600 * 1000.0
_MAX_NAME = 500
# How an event begins that our own workers wrote; the choice among kinds takes a third of the parser's time.
_USAGE = b'{"kind":"usage"'
_PARSE_USAGE = UsageEvent.__pydantic_validator__.validate_json

LedgerMessage = HoldRequest | UsageEvent | HoldRelease


def parse_ledger_message(body: bytes) -> LedgerMessage:
    """The message in `body`. Raises InvalidPayload."""
    try:
        message = _parse(body)
    except ValidationError as error:
        raise InvalidPayload(
            [Fault(".".join(map(str, fault["loc"])) or "body", fault["msg"]) for fault in error.errors()]
        ) from None
    if not _is_storable(message):
        raise InvalidPayload([Fault(message.kind, "a number or a name is out of range")])
    return message


def _parse(body: bytes) -> LedgerMessage:
    if body.startswith(_USAGE):
        event: UsageEvent = _PARSE_USAGE(body)
        return event
    return ledger_message.validate_json(body)


def _is_storable(message: LedgerMessage) -> bool:
    match message:
        case UsageEvent():
            return (
                message.prompt_tokens <= MAX_TOKENS
                and message.completion_tokens <= MAX_TOKENS
                and _kinds_fit(message)
                and message.latency_ms <= MAX_LATENCY_MS
                and message.granted_at.tzinfo is not None
                and _is_name(message.model)
                and _is_name(message.provider)
            )
        case HoldRequest():
            # A hold may be too large for the database: it is denied before it gets there.
            return message.lifetime <= MAX_LIFETIME and _is_name(message.model) and _is_name(message.provider)
        case HoldRelease():
            return True


def _kinds_fit(event: UsageEvent) -> bool:
    return (
        (event.cache_read_tokens or 0) <= MAX_TOKENS
        and (event.cache_write_tokens or 0) <= MAX_TOKENS
        and (event.reasoning_tokens or 0) <= MAX_TOKENS
        and (event.audio_prompt_tokens or 0) <= MAX_TOKENS
        and (event.audio_completion_tokens or 0) <= MAX_TOKENS
        and (event.image_prompt_tokens or 0) <= MAX_TOKENS
        and (event.image_completion_tokens or 0) <= MAX_TOKENS
    )


def _is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME and "\0" not in text
