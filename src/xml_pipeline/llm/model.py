"""The values that pass between `complete()`, a provider and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

Role = Literal["system", "user", "assistant"]

# More than chat templates spend around one message and around the whole prompt.
_MESSAGE_OVERHEAD = 16
_PROMPT_OVERHEAD = 16


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of the prompt."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a provider is asked. `call_id` names the call in the ledger; `timeout` is in seconds."""

    call_id: UUID
    agent: str
    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    timeout: float
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answered, with the tokens that it counted itself."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of `complete()`; already booked in the ledger when a handler sees it."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float


class Provider(Protocol):
    """Something that completes prompts. One object serves many calls at once, on one event loop."""

    @property
    def name(self) -> str:
        """The provider's name in the ledger and in the price table."""
        ...

    async def complete(self, request: CompletionRequest) -> Answer:
        """Answer once.

        Raises ProviderRefused or ProviderUnavailable where it is certain that the provider did no work, and any other
        ProviderError where that is unknown or untrue.
        """
        ...

    async def aclose(self) -> None:
        """Close connections; idempotent."""
        ...


def prompt_bound(messages: Sequence[ChatMessage]) -> int:
    """The most tokens this prompt can be counted as.

    Every tokenizer in use makes at least one byte of UTF-8 into a token, so bytes bound tokens from above;
    the overheads cover roles and separators. Real counts are about a quarter of it: the difference is held, not spent.
    """
    content = sum(len(message.content.encode()) for message in messages)
    return content + _MESSAGE_OVERHEAD * len(messages) + _PROMPT_OVERHEAD
