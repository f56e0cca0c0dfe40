"""The tokens of one call, as its provider counts them."""

from __future__ import annotations

from typing import NamedTuple


class Tokens(NamedTuple):
    """Totals, and what they contain of each kind. None is not zero: the provider did not say.

    Prompt tokens include those read from and written to a cache, audio and images; completion tokens include
    reasoning, audio and images.
    """

    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_prompt_tokens: int | None = None
    audio_completion_tokens: int | None = None
    image_prompt_tokens: int | None = None
    image_completion_tokens: int | None = None
