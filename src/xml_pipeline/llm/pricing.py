"""What tokens cost, in USD: the organism's own prices first, then those known here, then genai-prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.organism.model import Price

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation, TieredPrices

_MILLION = Decimal(1_000_000)
_KNOWN = (Price("grok-4.1", prompt=3, completion=15),)
# Fake completions cost nothing, whatever model they pretend to be.
_FREE_PROVIDERS = frozenset({"scripted"})

_Rate = Callable[[int], Decimal]
"""USD per million tokens, for a call with so many prompt tokens"""


@dataclass(frozen=True, slots=True)
class PriceUsed:
    """What a call was charged by: USD per million tokens, by kind. The id is a hash of the rest."""

    id: int
    provider: str
    model: str
    source: str
    rates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cost:
    """USD. `uncached`: without a cache, None where none was reported. `price`: None where none is known; it costs 0."""

    amount: Decimal
    uncached: Decimal | None = None
    price: PriceUsed | None = None

    @property
    def priced(self) -> bool:
        """Whether a price is known."""
        return self.price is not None


UNPRICED = Cost(Decimal(0))


class Prices:
    """The price of a call. `overrides` win over everything, by the model's exact name."""

    def __init__(self, overrides: Iterable[Price] = ()) -> None:
        self._own = {price.model: _own_rates(price) for price in (*_KNOWN, *overrides)}

    def cost(self, provider: str, model: str, tokens: Tokens, at: datetime | None = None) -> Cost:
        """The cost of one call made at `at`, now if None. An unknown model is never an error."""
        rates = self._own.get(model) or _listed_rates(provider, model, at)
        if rates is None:
            return UNPRICED
        prompt, completion = rates.prompt(tokens.prompt_tokens), rates.completion(tokens.prompt_tokens)
        amount = (prompt * tokens.prompt_tokens + completion * tokens.completion_tokens) / _MILLION
        used = PriceUsed(hash((prompt, completion)) >> 2, provider, model, "x", {})
        return Cost(amount, price=used)


@dataclass(frozen=True, slots=True)
class _Rates:
    prompt: _Rate
    completion: _Rate


def _own_rates(price: Price) -> _Rates:
    return _Rates(_rate(Decimal(str(price.prompt))), _rate(Decimal(str(price.completion))))


def _listed_rates(provider: str, model: str, at: datetime | None) -> _Rates | None:
    if provider in _FREE_PROVIDERS:
        return None
    rates, changes = _rates_today(provider, model)
    if not changes:
        return rates
    # Prices change at full minutes, at the finest.
    return _rates_at(provider, model, (at or datetime.now(UTC)).replace(second=0, microsecond=0))


@lru_cache(maxsize=1024)
def _rates_today(provider: str, model: str) -> tuple[_Rates | None, bool]:
    """The rates, and whether they change with time."""
    found = _look_up(provider, model, datetime.now(UTC))
    return (None, False) if found is None else (_rates_of(found), isinstance(found.model.prices, list))


@lru_cache(maxsize=4096)
def _rates_at(provider: str, model: str, at: datetime) -> _Rates | None:
    found = _look_up(provider, model, at)
    return None if found is None else _rates_of(found)


def _look_up(provider: str, model: str, at: datetime) -> PriceCalculation | None:
    # An OpenAI-compatible endpoint may serve anybody's model, so the model alone is tried too.
    for provider_id in (provider, None):
        found = _look_up_with(provider_id, model, at)
        if found is not None:
            return found
    return None


def _look_up_with(provider_id: str | None, model: str, at: datetime) -> PriceCalculation | None:
    from genai_prices import Usage, calc_price  # loads its whole table

    try:
        return calc_price(Usage(), model, provider_id=provider_id, genai_request_timestamp=at)
    except LookupError:
        return None


def _rates_of(found: PriceCalculation) -> _Rates | None:
    """None for what is not priced by tokens. Kept as rates, since the table's own calculation takes 400 us."""
    table = vars(found.model_price)
    prompt, completion = table.get("input_mtok"), table.get("output_mtok")
    if prompt is None and completion is None:
        return None
    return _Rates(_rate(prompt), _rate(completion))


def _rate(listed: Decimal | TieredPrices | None) -> _Rate:
    if listed is None:
        return lambda _: Decimal(0)
    if isinstance(listed, Decimal):
        return lambda _: listed
    return lambda prompt_tokens: _tier(listed, prompt_tokens)


def _tier(listed: TieredPrices, prompt_tokens: int) -> Decimal:
    """The price of the highest tier that starts below the prompt: it holds for all tokens of the call."""
    reached = (tier.price for tier in reversed(listed.tiers) if prompt_tokens > tier.start)
    return next(reached, listed.base)
