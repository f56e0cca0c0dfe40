"""The system's own payloads: `<huh>` for a sender who said it wrongly, `<SystemError>` for what went wrong."""

from __future__ import annotations

from dataclasses import dataclass

from xml_pipeline.envelope.codec import payload_tag
from xml_pipeline.envelope.model import HUH_TAG, SYSTEM_ERROR_TAG
from xml_pipeline.envelope.parser import parse
from xml_pipeline.envelope.text import clean_text, escape_text

ERROR_TAGS = frozenset({HUH_TAG, SYSTEM_ERROR_TAG})
MAX_TEXT = 500

HANDLER_FAILED = "handler-failed"
TIMEOUT = "timeout"
LOST = "lost"
LIMIT = "limit"
NO_ANSWER = "no-answer"
NOT_REACHABLE = "not-reachable"
INVALID_PAYLOAD = "invalid-payload"


@dataclass(frozen=True, slots=True)
class ErrorPayload:
    """An error as it travels. `tag` is `huh` or `SystemError`; `code` and `text` are what it says."""

    tag: str
    code: str
    text: str
    payload: bytes

    @property
    def is_huh(self) -> bool:
        """Whether it tells its recipient that he said something wrongly."""
        return self.tag == HUH_TAG

    @property
    def line(self) -> str:
        """The error for people."""
        return f"{self.code}: {self.text}"


def huh(reason: str, code: str = INVALID_PAYLOAD) -> ErrorPayload:
    """The answer to a sender whose message was no valid XML or payload."""
    text = shortened(reason)
    body = f"<huh><reason>{_escaped(text)}</reason><code>{_escaped(code)}</code></huh>"
    return ErrorPayload(HUH_TAG, code, text, body.encode())


def system_error(code: str, message: str) -> ErrorPayload:
    """What a caller gets where no answer can come."""
    text = shortened(message)
    body = f"<SystemError><code>{_escaped(code)}</code><message>{_escaped(text)}</message></SystemError>"
    return ErrorPayload(SYSTEM_ERROR_TAG, code, text, body.encode())


def not_reachable() -> ErrorPayload:
    """One wording whatever the reason, so that it does not tell whether the target exists."""
    return system_error(NOT_REACHABLE, "The message could not be delivered: its target cannot be reached from here.")


def as_system_error(error: ErrorPayload) -> ErrorPayload:
    """The same for someone who did not say anything wrongly himself."""
    return system_error(error.code, error.text) if error.is_huh else error


def read_error(payload: bytes) -> ErrorPayload:
    """An error that a handler gave as its answer."""
    root = parse(payload)
    texts = {str(child.tag): child.text or "" for child in root}
    text = texts.get("message") or texts.get("reason") or ""
    return ErrorPayload(payload_tag(payload), texts.get("code", ""), shortened(text), payload)


def shortened(text: str) -> str:
    """At most 500 characters, and none that XML cannot carry."""
    text = clean_text(text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _escaped(text: str) -> str:
    return escape_text(clean_text(text))
