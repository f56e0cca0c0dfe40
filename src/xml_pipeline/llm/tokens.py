"""How many tokens a call used, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class TokenCounts(Protocol):
    """What a price needs to know of a call; `Tokens` and `UsageEvent` are such.

    Prompt tokens include those read from and written to a cache, and their audio and images; completion tokens include
    reasoning, audio and images. None is what the provider did not report, which is not zero.
    """

    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def cache_read_tokens(self) -> int | None: ...
    @property
    def cache_write_tokens(self) -> int | None: ...
    @property
    def reasoning_tokens(self) -> int | None: ...
    @property
    def audio_prompt_tokens(self) -> int | None: ...
    @property
    def audio_completion_tokens(self) -> int | None: ...
    @property
    def image_prompt_tokens(self) -> int | None: ...
    @property
    def image_completion_tokens(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Tokens:
    """`TokenCounts` as a value."""

    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_prompt_tokens: int | None = None
    audio_completion_tokens: int | None = None
    image_prompt_tokens: int | None = None
    image_completion_tokens: int | None = None
