"""Prices: exact, the organism's own first, and never an error."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage, calc_price
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


LISTED = [
    ("openai", "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-pro"),
    ("deepseek", "deepseek-chat"),
]


@given(
    st.sampled_from(LISTED),
    st.integers(0, 2 * MILLION),
    st.integers(0, 2 * MILLION),
)
def test_it_is_what_the_price_table_says(model: tuple[str, str], prompt: int, completion: int) -> None:
    at = datetime(2026, 3, 1, 17, 0, tzinfo=UTC)
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    listed = calc_price(usage, model[1], provider_id=model[0], genai_request_timestamp=at)
    assert Prices().cost(*model, Tokens(prompt, completion), at).amount == listed.total_price
