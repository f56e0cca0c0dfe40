"""The token counts of an answer, in OpenAI's spelling and in those of the endpoints that are compatible with it.

What endpoints leave out of `prompt_tokens` or `completion_tokens`, though they charge for it, is added here:
Anthropic's counts of the cache may stand beside the prompt's, xAI's and Gemini's reasoning beside the completion's.
"""

from __future__ import annotations

from collections.abc import Mapping

from xml_pipeline.llm.tokens import Tokens

# What the ledger takes, and more tokens than any call has.
MOST_TOKENS = 2**31 - 1
_CACHE_READ = ("cached_tokens", "prompt_cache_hit_tokens")
_CACHE_WRITE = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
_BESIDE_READ = "cache_read_input_tokens"
_BESIDE_WRITE = "cache_creation_input_tokens"


def read_tokens(usage: object) -> Tokens | None:
    """The tokens that `usage`, as it is in the JSON, reports; None where the totals are missing or cannot be true."""
    report = _part(usage)
    prompt, completion = _count(report, "prompt_tokens"), _count(report, "completion_tokens")
    if prompt is None or completion is None:
        return None
    of_prompt, of_completion = (
        _part(report.get("prompt_tokens_details")),
        _part(report.get("completion_tokens_details")),
    )
    reasoning = _count(of_completion, "reasoning_tokens")
    prompt += _cache_beside(report, prompt, completion, reasoning or 0)
    completion += max(0, (_count(report, "total_tokens") or 0) - prompt - completion)
    if max(prompt, completion) > MOST_TOKENS:
        return None
    return Tokens(
        prompt,
        completion,
        cache_read_tokens=_first(_count(of_prompt, *_CACHE_READ), _count(report, *_CACHE_READ, _BESIDE_READ)),
        cache_write_tokens=_first(_count(of_prompt, *_CACHE_WRITE), _count(report, *_CACHE_WRITE)),
        reasoning_tokens=reasoning,
        audio_prompt_tokens=_count(of_prompt, "audio_tokens"),
        audio_completion_tokens=_count(of_completion, "audio_tokens"),
        image_prompt_tokens=_count(of_prompt, "image_tokens"),
        image_completion_tokens=_count(of_completion, "image_tokens"),
    )


def _cache_beside(report: Mapping[str, object], prompt: int, completion: int, reasoning: int) -> int:
    """Tokens of the cache that `prompt` does not contain: the total tells, or that they are more than the prompt."""
    cache = (_count(report, _BESIDE_READ) or 0) + (_count(report, _BESIDE_WRITE) or 0)
    total = _count(report, "total_tokens")
    if total is None:
        return cache if cache > prompt else 0
    beside = total - prompt - completion
    return cache if beside in (cache, cache + reasoning) or cache > prompt else 0


def _part(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _count(report: Mapping[str, object], *names: str) -> int | None:
    """The first that is a count. What is none is as good as not reported."""
    for name in names:
        value = report.get(name)
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            return value
    return None


def _first(*counts: int | None) -> int | None:
    return next((count for count in counts if count is not None), None)
