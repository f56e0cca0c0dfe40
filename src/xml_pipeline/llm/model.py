"""The values that pass between `complete()`, a provider and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from xml_pipeline.llm.tokens import Tokens

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
    """What a provider is asked. `call_id` names the call in the ledger; `timeout` is in seconds.

    `on_text` is given each piece of the answer as it comes.
    """

    call_id: UUID
    agent: str
    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    timeout: float
    temperature: float | None = None
    on_text: Callable[[str], None] | None = None


class _Counted:
    """What has tokens."""

    __slots__ = ()
    tokens: Tokens

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt."""
        return self.tokens.prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """All tokens of the completion."""
        return self.tokens.completion_tokens


@dataclass(frozen=True, slots=True)
class Answer(_Counted):
    """What a provider answered, with the tokens that it counted itself; `estimated` where it counted none."""

    text: str
    model: str
    tokens: Tokens
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Completion(_Counted):
    """The result of `complete()`; already booked in the ledger when a handler sees it.

    `tokens` has the kinds that the provider reported; with `estimated` it reported none, and they are a bound.
    """

    text: str
    model: str
    tokens: Tokens
    latency_ms: float
    estimated: bool = False


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


def completion_bound(text: str) -> int:
    """The most tokens this text can be counted as, what ends it included."""
    return len(text.encode("utf-8", "surrogatepass")) + _MESSAGE_OVERHEAD
