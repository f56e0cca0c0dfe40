"""The token counts of answers, as the endpoints spell them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.llm.reported_usage import MOST_TOKENS, read_tokens
from xml_pipeline.llm.tokens import Tokens

OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 192,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 5,
        "rejected_prediction_tokens": 7,
    },
}


def test_openais_details_are_parts_of_the_totals() -> None:
    assert read_tokens(OPENAI) == Tokens(
        2006, 300, cache_read_tokens=1920, reasoning_tokens=192, audio_prompt_tokens=0, audio_completion_tokens=0
    )


def test_what_is_not_reported_is_none_and_not_zero() -> None:
    assert read_tokens({"prompt_tokens": 5, "completion_tokens": 0}) == Tokens(5, 0)
    reported = read_tokens({"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0}})
    assert reported == Tokens(5, 0, cache_read_tokens=0)


def test_audio_and_images() -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"audio_tokens": 30, "image_tokens": 20},
        "completion_tokens_details": {"audio_tokens": 40, "image_tokens": 10},
    }
    assert read_tokens(usage) == Tokens(
        100,
        50,
        audio_prompt_tokens=30,
        audio_completion_tokens=40,
        image_prompt_tokens=20,
        image_completion_tokens=10,
    )


@pytest.mark.parametrize(
    "cache",
    [
        {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"cached_tokens": 64},
        {"cache_read_input_tokens": 64},
        {"prompt_tokens_details": {"cached_tokens": 64}, "cache_read_input_tokens": 64},
        {"prompt_tokens_details": None, "prompt_cache_hit_tokens": 64},
    ],
)
def test_a_cache_has_many_names(cache: dict[str, object]) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, **cache}
    assert read_tokens(usage) == Tokens(100, 10, cache_read_tokens=64)


@pytest.mark.parametrize(
    "cache",
    [
        {"cache_creation_input_tokens": 70},
        {"prompt_tokens_details": {"cache_write_tokens": 70}},
        {"prompt_tokens_details": {"cache_creation_tokens": 70}, "cache_creation_input_tokens": 70},
    ],
)
def test_writing_to_a_cache_has_many_names_too(cache: dict[str, object]) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, **cache}
    assert read_tokens(usage) == Tokens(100, 10, cache_write_tokens=70)


@pytest.mark.parametrize("total", [{"total_tokens": 4 + 12 + 2000 + 300}, {}])
def test_a_cache_beside_the_prompt_is_added_to_it(total: dict[str, int]) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 12, **total}
    cache = {"cache_read_input_tokens": 2000, "cache_creation_input_tokens": 300}
    assert read_tokens(usage | cache) == Tokens(2304, 12, cache_read_tokens=2000, cache_write_tokens=300)


def test_reasoning_beside_the_completion_is_added_to_it() -> None:
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    assert read_tokens(usage) == Tokens(32, 103, reasoning_tokens=94)


def test_thoughts_that_only_the_total_tells_of_are_completion() -> None:
    assert read_tokens({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}) == Tokens(20, 603)


def test_a_wrong_total_takes_nothing_away() -> None:
    assert read_tokens({"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 3}) == Tokens(20, 198)


def test_both_a_cache_and_reasoning_may_stand_beside() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "total_tokens": 10 + 20 + 500 + 70,
        "cache_read_input_tokens": 500,
        "completion_tokens_details": {"reasoning_tokens": 70},
    }
    assert read_tokens(usage) == Tokens(510, 90, cache_read_tokens=500, reasoning_tokens=70)


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens"]), inner),
    max_leaves=5,
)
_NAMES = [
    *OPENAI,
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "prompt_cache_hit_tokens",
]


@given(_ANYTHING | st.dictionaries(st.sampled_from(_NAMES), _ANYTHING))
def test_whatever_comes_it_is_counts_that_the_ledger_takes_or_nothing(usage: object) -> None:
    tokens = read_tokens(usage)
    assert tokens is None or all(count is None or 0 <= count <= MOST_TOKENS for count in tokens)
