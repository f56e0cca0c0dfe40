"""What arrives on the usage queue: parsed, and refused where the database could not keep it."""

from __future__ import annotations

import math

from pydantic import ValidationError

from xml_pipeline.errors import Fault, InvalidPayload
from xml_pipeline.message_bus.messages import HoldRelease, HoldRequest, UsageEvent, ledger_message

# What PostgreSQL's integer holds, and more tokens than any call has.
MAX_TOKENS = 2**31 - 1
MAX_LIFETIME = 24 * 3600.0
MAX_LATENCY_MS = 7 * 24 * 3600 * 1000.0
_MAX_NAME = 500

LedgerMessage = HoldRequest | UsageEvent | HoldRelease


def parse_ledger_message(body: bytes) -> LedgerMessage:
    """The message in `body`. Raises InvalidPayload."""
    try:
        message = ledger_message.validate_json(body)
    except ValidationError as error:
        raise InvalidPayload(
            [Fault(".".join(map(str, fault["loc"])) or "body", fault["msg"]) for fault in error.errors()]
        ) from None
    faults = [Fault(name, "out of range") for name, good in _checks(message).items() if not good]
    if faults:
        raise InvalidPayload(faults)
    return message


def _checks(message: LedgerMessage) -> dict[str, bool]:
    match message:
        case UsageEvent():
            return {
                "prompt_tokens": message.prompt_tokens <= MAX_TOKENS,
                "completion_tokens": message.completion_tokens <= MAX_TOKENS,
                "latency_ms": message.latency_ms <= MAX_LATENCY_MS,
                "granted_at": message.granted_at.tzinfo is not None,
                **_names(message.model, message.provider),
            }
        case HoldRequest():
            return {
                "prompt_bound": message.prompt_bound <= MAX_TOKENS,
                "max_completion": message.max_completion <= MAX_TOKENS,
                "lifetime": math.isfinite(message.lifetime) and message.lifetime <= MAX_LIFETIME,
                **_names(message.model, message.provider),
            }
        case HoldRelease():
            return {}


def _names(model: str, provider: str) -> dict[str, bool]:
    names = {"model": model, "provider": provider}
    return {field: len(name) <= _MAX_NAME and "\0" not in name for field, name in names.items()}
