"""Prices: exact, the organism's own first, and never an error."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.llm.pricing import UNPRICED, Prices
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import Price

MILLION = 1_000_000


def test_one_million_of_each_of_grok_costs_exactly_eighteen() -> None:
    cost = Prices().cost("xai", "grok-4.1", Tokens(MILLION, MILLION))
    assert (cost.amount, cost.uncached, cost.priced) == (Decimal(18), None, True)


@pytest.mark.parametrize("model", ["mystery-9000", "", "/", "gpt", "x" * 500, "grok-4.1-nobody-knows-it"])
@pytest.mark.parametrize("provider", ["openai", "nobody", "", "scripted"])
def test_an_unknown_model_costs_nothing(provider: str, model: str) -> None:
    assert Prices().cost(provider, model, Tokens(MILLION, MILLION)) == UNPRICED


def test_the_organisms_own_price_wins() -> None:
    prices = Prices([Price("grok-4.1", prompt=1, completion=1), Price("gpt-4o", prompt=0.1, completion=0)])
    assert prices.cost("xai", "grok-4.1", Tokens(MILLION, MILLION)).amount == 2
    assert prices.cost("openai", "gpt-4o", Tokens(MILLION, 5)).amount == Decimal("0.1")


def test_scripted_completions_cost_nothing_unless_the_organism_says_so() -> None:
    assert Prices().cost("scripted", "gpt-4o", Tokens(MILLION, MILLION)) == UNPRICED
    assert Prices([Price("gpt-4o", 1, 1)]).cost("scripted", "gpt-4o", Tokens(MILLION, 0)).amount == 1


def test_a_model_is_found_behind_any_compatible_endpoint() -> None:
    assert Prices().cost("openai", "claude-sonnet-4-5", Tokens(MILLION, 0)) == Prices().cost(
        "anthropic", "claude-sonnet-4-5", Tokens(MILLION, 0)
    )


def test_the_organisms_own_price_may_tell_kinds_apart() -> None:
    price = Price(
        "m",
        prompt=1,
        completion=10,
        cache_read=0.1,
        cache_write=2,
        reasoning=5,
        audio_prompt=3,
        audio_completion=30,
        image_prompt=4,
        image_completion=40,
    )
    tokens = Tokens(1_000, 1_000, 100, 200, 50, 60, 70, 80, 90)
    cost = Prices([price]).cost("anybody", "m", tokens)
    # 560 + 10 + 400 + 180 + 320 of the prompt, and 7,900 + 250 + 2,100 + 3,600 of the completion
    assert cost.amount == Decimal("0.01532")
    # 860 + 180 + 320 where nothing had been cached
    assert cost.uncached == Decimal("0.01521")


def test_a_kind_without_a_price_costs_what_the_rest_does() -> None:
    cost = Prices([Price("m", prompt=1, completion=10)]).cost("x", "m", Tokens(100, 10, 50, 20, 5, 6, 1, 7, 1))
    assert (cost.amount, cost.uncached) == (Decimal("0.0002"), Decimal("0.0002"))


def test_a_price_that_is_zero_is_a_price() -> None:
    cost = Prices([Price("m", prompt=1, completion=1, cache_read=0)]).cost("x", "m", Tokens(100, 0, 100))
    assert (cost.amount, cost.uncached, cost.priced) == (Decimal(0), Decimal("0.0001"), True)


def test_the_price_used_says_where_it_comes_from() -> None:
    prices = Prices([Price("mine", prompt=0.5, completion=1e-7, cache_read=0.25)])
    used = [prices.cost("openai", model, Tokens(1, 1)).price for model in ("mine", "grok-4.1", "gpt-4o-2024-08-06")]
    assert [price and (price.provider, price.model, price.source, price.rates) for price in used] == [
        ("", "mine", "organism", {"input": "0.5", "output": "0.0000001", "cache_read": "0.25"}),
        ("", "grok-4.1", "built-in", {"input": "3", "output": "15"}),
        ("openai", "gpt-4o", "genai-prices", {"input": "2.5", "output": "10", "cache_read": "1.25"}),
    ]


@given(st.floats(0, 1e9), st.floats(0, 1e-9), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_any_price_that_can_be_configured_counts(prompt: float, completion: float, used: int, made: int) -> None:
    cost = Prices([Price("m", prompt=prompt, completion=completion)]).cost("x", "m", Tokens(used, made))
    exact = Fraction(str(prompt)) * used + Fraction(str(completion)) * made
    assert abs(Fraction(cost.amount) - exact / 10**6) <= exact / 10**33
