"""Costs against the price table's own calculation: any usage, any model, any time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from genai_prices import Usage, calc_price
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st

from xml_pipeline.llm.pricing import UNPRICED, Prices
from xml_pipeline.llm.rate_card import Cost
from xml_pipeline.llm.tokens import Tokens

_TOKEN_PRICES = {
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "input_audio_mtok",
    "output_audio_mtok",
    "input_image_mtok",
    "output_image_mtok",
    "output_reasoning_mtok",
}
_COUNTS = st.one_of(st.integers(0, 2_000), st.integers(0, 400_000))
_PARTS = st.none() | _COUNTS
_TIMES = st.integers(0, 900 * 86_400).map(lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds))


def _prices(model: ModelInfo) -> list[ModelPrice]:
    return [each.prices for each in model.prices] if isinstance(model.prices, list) else [model.prices]


def _listed() -> list[tuple[str, str]]:
    """The models that are charged by tokens, and by their own id are found again."""
    found = []
    for provider in get_snapshot().providers:
        for model in provider.models:
            by_tokens = all(_TOKEN_PRICES & set(vars(price)) for price in _prices(model))
            if by_tokens and provider.find_model(model.id) is model:
                found.append((provider.id, model.id))
    return found


LISTED = _listed()


@st.composite
def usages(draw: st.DrawFn) -> Tokens:
    """Parts that do not overlap, as a provider would report them."""
    read, write, audio, image = (draw(_PARTS) for _ in range(4))
    reasoning, said, drawn = (draw(_PARTS) for _ in range(3))
    return Tokens(
        sum(part or 0 for part in (read, write, audio, image)) + draw(_COUNTS),
        sum(part or 0 for part in (reasoning, said, drawn)) + draw(_COUNTS),
        cache_read_tokens=read,
        cache_write_tokens=write,
        reasoning_tokens=reasoning,
        audio_prompt_tokens=audio,
        audio_completion_tokens=said,
        image_prompt_tokens=image,
        image_completion_tokens=drawn,
    )


def _table(model: tuple[str, str], tokens: Tokens, at: datetime) -> Decimal:
    usage = Usage(
        input_tokens=tokens.prompt_tokens,
        output_tokens=tokens.completion_tokens,
        cache_read_tokens=tokens.cache_read_tokens,
        cache_write_tokens=tokens.cache_write_tokens,
        output_reasoning_tokens=tokens.reasoning_tokens,
        input_audio_tokens=tokens.audio_prompt_tokens,
        output_audio_tokens=tokens.audio_completion_tokens,
        input_image_tokens=tokens.image_prompt_tokens,
        output_image_tokens=tokens.image_completion_tokens,
        # That no part is of two kinds has to be said.
        **{f"cache_{kind}_{step}_tokens": 0 for kind in ("audio", "image") for step in ("read", "write")},
    )
    return calc_price(usage, model[1], provider_id=model[0], genai_request_timestamp=at).total_price


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(LISTED), usages(), _TIMES)
def test_it_is_what_the_price_table_says(model: tuple[str, str], tokens: Tokens, at: datetime) -> None:
    cost = Prices().cost(*model, tokens, at)
    assert cost.amount == _table(model, tokens, at)
    if tokens.cache_read_tokens is None and tokens.cache_write_tokens is None:
        assert cost.uncached is None
    else:
        cold = tokens._replace(cache_read_tokens=None, cache_write_tokens=None)
        assert cost.uncached == _table(model, cold, at)


@settings(max_examples=100, deadline=None)
@given(st.data(), usages(), _TIMES)
def test_many_models_of_the_best_known_providers(data: st.DataObject, tokens: Tokens, at: datetime) -> None:
    for provider in ("openai", "anthropic", "google", "x-ai", "deepseek", "mistral"):
        model = data.draw(st.sampled_from([listed for listed in LISTED if listed[0] == provider]))
        assert Prices().cost(*model, tokens, at).amount == _table(model, tokens, at)


_ANY = st.none() | st.integers(0, 2**31 - 1)


@settings(deadline=None)
@given(st.sampled_from(LISTED), st.builds(Tokens, st.integers(0, 10**6), st.integers(0, 10**6), *[_ANY] * 7), _TIMES)
def test_no_report_however_wrong_is_negative_or_an_error(model: tuple[str, str], tokens: Tokens, at: datetime) -> None:
    cost = Prices().cost(*model, tokens, at)
    assert cost.amount >= 0
    assert cost.uncached is None or cost.uncached >= 0
    assert cost == _by_its_rates(cost, tokens)


def _by_its_rates(cost: Cost, tokens: Tokens) -> Cost:
    """The cost, worked out again from the rates that are kept with it, one kind after the other."""
    assert cost.price is not None
    rates = {kind: Decimal(rate) for kind, rate in cost.price.rates.items()}
    amount = rates.get("requests", Decimal(0))
    for whole, total, kinds in (
        (
            "input",
            tokens.prompt_tokens,
            {
                "cache_read": tokens.cache_read_tokens,
                "cache_write": tokens.cache_write_tokens,
                "audio_input": tokens.audio_prompt_tokens,
                "image_input": tokens.image_prompt_tokens,
            },
        ),
        (
            "output",
            tokens.completion_tokens,
            {
                "audio_output": tokens.audio_completion_tokens,
                "image_output": tokens.image_completion_tokens,
                "reasoning": tokens.reasoning_tokens,
            },
        ),
    ):
        left = total
        base = rates.get(whole, Decimal(0))
        for kind, count in kinds.items():
            part = min(count or 0, left)
            left -= part
            amount += part * rates.get(kind, base)
        amount += left * base
    return Cost(amount / 1_000_000, cost.uncached, cost.price)


def test_what_is_not_charged_by_tokens_is_unpriced() -> None:
    assert Prices().cost("groq", "whisper-large-v3", Tokens(5, 5)) == UNPRICED


def test_a_price_is_known_by_what_it_says() -> None:
    at = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    def identity(provider: str, model: str, prompt: int = 1, time: datetime = at) -> int:
        price = Prices().cost(provider, model, Tokens(prompt, 1), time).price
        assert price is not None
        assert -(2**63) <= price.id < 2**63
        return price.id

    # Of all times and machines the same.
    assert identity("openai", "gpt-4o") == identity("openai", "gpt-4o-2024-08-06") == 6328476531936438906
    assert identity("openai", "gpt-4o") == identity("openai", "gpt-4o", 10**6)
    assert identity("google", "gemini-2.5-pro") != identity("google", "gemini-2.5-pro", 10**6)
    night = at.replace(hour=20)
    assert identity("deepseek", "deepseek-chat") != identity("deepseek", "deepseek-chat", time=night)
    assert identity("openai", "gpt-4o") != identity("openrouter", "openai/gpt-4o")
