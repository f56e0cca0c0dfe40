"""What calls cost, in USD: the organism's own prices first, then those known here, then genai-prices."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from xml_pipeline.llm.price_table import listed_tariff
from xml_pipeline.llm.rate_card import UNPRICED, Cost, PriceUsed, Tariff, rate_card
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import Price

__all__ = ["UNPRICED", "Cost", "PriceUsed", "Prices"]

_KNOWN = (Price("grok-4.1", prompt=3, completion=15),)
# Fake completions cost nothing, whatever model they pretend to be.
_FREE_PROVIDERS = frozenset({"scripted"})
_KINDS = {
    "input": "prompt",
    "output": "completion",
    "cache_read": "cache_read",
    "cache_write": "cache_write",
    "audio_input": "audio_prompt",
    "image_input": "image_prompt",
    "reasoning": "reasoning",
    "audio_output": "audio_completion",
    "image_output": "image_completion",
}


class Prices:
    """The price of a call. `overrides` win over everything, by the model's exact name."""

    def __init__(self, overrides: Iterable[Price] = ()) -> None:
        self._own = {
            **{price.model: _own(price, "built-in") for price in _KNOWN},
            **{price.model: _own(price, "organism") for price in overrides},
        }

    def cost(self, provider: str, model: str, tokens: Tokens, at: datetime | None = None) -> Cost:
        """The cost of one call made at `at` (with a time zone; now if None). An unknown model is never an error."""
        tariff = self._own.get(model)
        if tariff is None and provider not in _FREE_PROVIDERS:
            tariff = listed_tariff(provider, model, at)
        return UNPRICED if tariff is None else tariff.cost(tokens)


def _own(price: Price, source: str) -> Tariff:
    given = {kind: getattr(price, field) for kind, field in _KINDS.items()}
    rates = {kind: Decimal(str(rate)) for kind, rate in given.items() if rate is not None}
    return Tariff([rate_card("", price.model, source, rates)])
