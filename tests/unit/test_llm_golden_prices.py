"""What calls of well-known models cost, worked out by hand from the providers' price lists, at one moment."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

import pytest

from xml_pipeline.llm.pricing import Prices
from xml_pipeline.llm.tokens import Tokens

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Golden(NamedTuple):
    """`rates` are USD for a million of each kind; the amounts are sums of tokens by rates, over a million."""

    provider: str
    model: str
    tokens: Tokens
    rates: dict[str, str]
    amount: str
    uncached: str | None = None
    at: datetime = AT


def used(prompt: int, completion: int, read: int | None = None, write: int | None = None, **more: int) -> Tokens:
    return Tokens(prompt, completion, read, write, **more)


GPT_4O = {"input": "2.5", "output": "10", "cache_read": "1.25"}
SONNET = {"input": "3", "output": "15", "cache_read": "0.3", "cache_write": "3.75"}
SONNET_LONG = {"input": "6", "output": "22.5", "cache_read": "0.6", "cache_write": "7.5"}
GEMINI = {"input": "1.25", "output": "10", "cache_read": "0.125"}
GEMINI_LONG = {"input": "2.5", "output": "15", "cache_read": "0.25"}
DEEPSEEK_DAY = {"input": "0.27", "output": "1.1", "cache_read": "0.07"}
DEEPSEEK_NIGHT = {"input": "0.135", "output": "0.55", "cache_read": "0.035"}
REALTIME = {
    "input": "4",
    "output": "16",
    "cache_read": "0.4",
    "audio_input": "32",
    "image_input": "5",
    "audio_output": "64",
}

GOLDEN = [
    # 1,000 x 2.5 + 500 x 10 = 2,500 + 5,000
    Golden("openai", "gpt-4o", used(1_000, 500), GPT_4O, "0.0075"),
    # 976 x 2.5 + 1,024 x 1.25 + 500 x 10 = 2,440 + 1,280 + 5,000; without a cache 2,000 x 2.5 + 5,000
    Golden("openai", "gpt-4o", used(2_000, 500, 1_024), GPT_4O, "0.00872", "0.01"),
    # A cache that was reported, and not used: the same with and without.
    Golden("openai", "gpt-4o", used(2_000, 500, 0), GPT_4O, "0.01", "0.01"),
    # Of a dated name: 3 x 2.5 + 4 x 10 = 47.5
    Golden("openai", "gpt-4o-2024-08-06", used(3, 4), GPT_4O, "0.0000475"),
    # Reasoning is completion: 2,720 x 1.25 + 1,280 x 0.125 + 2,500 x 10 = 3,400 + 160 + 25,000; 4,000 x 1.25 = 5,000
    Golden(
        "openai",
        "gpt-5",
        used(4_000, 2_500, 1_280, reasoning_tokens=2_048),
        {"input": "1.25", "output": "10", "cache_read": "0.125"},
        "0.02856",
        "0.03",
    ),
    # 10,000 x 0.25 + 3 x 2 = 2,506
    Golden(
        "openai",
        "gpt-5-mini",
        used(10_000, 3),
        {"input": "0.25", "output": "2", "cache_read": "0.025"},
        "0.002506",
    ),
    # Cheaper since 10 June 2025: 1,000 x 2 + 1,000 x 8 after it, 1,000 x 10 + 1,000 x 40 before
    Golden(
        "openai",
        "o3",
        used(1_000, 1_000, reasoning_tokens=900),
        {"input": "2", "output": "8", "cache_read": "0.5"},
        "0.01",
    ),
    Golden(
        "openai",
        "o3",
        used(1_000, 1_000, reasoning_tokens=900),
        {"input": "10", "output": "40", "cache_read": "0.5"},
        "0.05",
        at=datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC),
    ),
    # Text 500 x 4, audio 300 x 32, images 200 x 5; text 100 x 16, audio 400 x 64:
    # 2,000 + 9,600 + 1,000 + 1,600 + 25,600
    Golden(
        "openai",
        "gpt-realtime",
        used(1_000, 500, audio_prompt_tokens=300, audio_completion_tokens=400, image_prompt_tokens=200),
        REALTIME,
        "0.0398",
    ),
    # 1,000 x 3 + 2,000 x 0.3 + 3,000 x 3.75 + 500 x 15 = 3,000 + 600 + 11,250 + 7,500; 6,000 x 3 + 7,500 without
    Golden("anthropic", "claude-sonnet-4-5", used(6_000, 500, 2_000, 3_000), SONNET, "0.02235", "0.0255"),
    # At 200,000 the lower tier still holds: 200,000 x 3 + 10 x 15 = 600,150
    Golden("anthropic", "claude-sonnet-4-5", used(200_000, 10), SONNET, "0.60015"),
    # One token more, and all of the call costs more: 200,001 x 6 + 10 x 22.5 = 1,200,006 + 225
    Golden("anthropic", "claude-sonnet-4-5", used(200_001, 10), SONNET_LONG, "1.200231"),
    # What was cached counts for the tier: 50,000 x 6 + 200,000 x 0.6 + 1,000 x 22.5; 250,000 x 6 + 22,500 without
    Golden("anthropic", "claude-sonnet-4-5", used(250_000, 1_000, 200_000, 0), SONNET_LONG, "0.4425", "1.5225"),
    # 100 x 15 + 900 x 1.5 + 100 x 75 = 1,500 + 1,350 + 7,500; 1,000 x 15 + 7,500 without
    Golden(
        "anthropic",
        "claude-opus-4-1",
        used(1_000, 100, 900),
        {"input": "15", "output": "75", "cache_read": "1.5", "cache_write": "18.75"},
        "0.01035",
        "0.0225",
    ),
    # Only written: 1,000 x 1.25 + 10 x 5 = 1,300, and 1,050 without: a cache costs before it saves
    Golden(
        "anthropic",
        "claude-haiku-4-5",
        used(1_000, 10, 0, 1_000),
        {"input": "1", "output": "5", "cache_read": "0.1", "cache_write": "1.25"},
        "0.0013",
        "0.00105",
    ),
    # 80,000 x 1.25 + 20,000 x 0.125 + 2,000 x 10 = 100,000 + 2,500 + 20,000; 100,000 x 1.25 + 20,000 without
    Golden("google", "gemini-2.5-pro", used(100_000, 2_000, 20_000, reasoning_tokens=1_500), GEMINI, "0.1225", "0.145"),
    # Above 200,000: 200,000 x 2.5 + 100,000 x 0.25 + 2,000 x 15 = 500,000 + 25,000 + 30,000; 750,000 + 30,000 without
    Golden("google", "gemini-2.5-pro", used(300_000, 2_000, 100_000), GEMINI_LONG, "0.555", "0.78"),
    # Text 500 x 0.3, audio 1,500 x 1, cached 1,000 x 0.03, 200 x 2.5: 150 + 1,500 + 30 + 500; 450 + 1,500 + 500
    Golden(
        "google",
        "gemini-2.5-flash",
        used(3_000, 200, 1_000, audio_prompt_tokens=1_500),
        {"input": "0.3", "output": "2.5", "cache_read": "0.03", "audio_input": "1"},
        "0.00218",
        "0.00245",
    ),
    # 100 x 3 + 900 x 0.75 + 1,003 x 15 = 300 + 675 + 15,045; 1,000 x 3 + 15,045 without
    Golden(
        "x-ai",
        "grok-4",
        used(1_000, 1_003, 900, reasoning_tokens=994),
        {"input": "3", "output": "15", "cache_read": "0.75"},
        "0.01602",
        "0.018045",
    ),
    # 32 x 0.3 + 103 x 0.5 = 9.6 + 51.5, with the provider's other spelling
    Golden(
        "xai",
        "grok-3-mini",
        used(32, 103, reasoning_tokens=94),
        {"input": "0.3", "output": "0.5", "cache_read": "0.075"},
        "0.0000611",
    ),
    # By day: 400 x 0.27 + 600 x 0.07 + 100 x 1.1 = 108 + 42 + 110; 270 + 110 without
    Golden("deepseek", "deepseek-chat", used(1_000, 100, 600), DEEPSEEK_DAY, "0.00026", "0.00038"),
    # From 16:30 to 00:30, half of it: 54 + 21 + 55; 135 + 55 without
    Golden(
        "deepseek",
        "deepseek-chat",
        used(1_000, 100, 600),
        DEEPSEEK_NIGHT,
        "0.00013",
        "0.00019",
        at=datetime(2026, 3, 1, 16, 30, tzinfo=UTC),
    ),
    # 1,000 x 0.55 + 5,000 x 2.19 = 550 + 10,950
    Golden(
        "deepseek",
        "deepseek-reasoner",
        used(1_000, 5_000, reasoning_tokens=4_000),
        {"input": "0.55", "output": "2.19", "cache_read": "0.14"},
        "0.0115",
    ),
    # No price of cached tokens: they cost as any other. 1,000 x 2 + 100 x 6, with and without
    Golden(
        "mistral",
        "mistral-large-latest",
        used(1_000, 100, 700),
        {"input": "2", "output": "6"},
        "0.0026",
        "0.0026",
    ),
    # 5 x 0.3 + 7 x 0.9 = 1.5 + 6.3
    Golden("mistral", "codestral-latest", used(5, 7), {"input": "0.3", "output": "0.9"}, "0.0000078"),
    # 1,000 x 0.59 + 1,000 x 0.79
    Golden("groq", "llama-3.3-70b-versatile", used(1_000, 1_000), {"input": "0.59", "output": "0.79"}, "0.00138"),
    # Reasoning has a rate of its own: 100 x 2 + 1,000 x 8 + 9,000 x 3 = 200 + 8,000 + 27,000
    Golden(
        "perplexity",
        "sonar-deep-research",
        used(100, 10_000, reasoning_tokens=9_000),
        {"input": "2", "output": "8", "reasoning": "3"},
        "0.0352",
    ),
    # Each request costs too: 14 USD for a thousand, and 10 x 3 + 10 x 15 = 180
    Golden("perplexity", "sonar-pro", used(10, 10), {"input": "3", "output": "15", "requests": "14000"}, "0.01418"),
    # Our own: 1,000,000 x 3 + 1,000,000 x 15
    Golden("xai", "grok-4.1", used(1_000_000, 1_000_000), {"input": "3", "output": "15"}, "18"),
]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden.model}-{golden.amount}")
def test_what_it_costs(golden: Golden) -> None:
    cost = Prices().cost(golden.provider, golden.model, golden.tokens, golden.at)
    assert cost.price is not None
    assert cost.price.rates == golden.rates
    assert cost.amount == Decimal(golden.amount)
    assert cost.uncached == (None if golden.uncached is None else Decimal(golden.uncached))
    assert isinstance(cost.amount, Decimal)


def test_there_are_enough_of_them() -> None:
    assert len({golden.model for golden in GOLDEN}) >= 12
    assert len({golden.provider for golden in GOLDEN} - {"xai"}) >= 5
