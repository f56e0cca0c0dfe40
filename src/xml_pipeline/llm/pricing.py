"""What tokens cost, in USD: the organism's own prices first, then those known here, then genai-prices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from xml_pipeline.organism.model import Price

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

_MILLION = Decimal(1_000_000)
_KNOWN = (Price("grok-4.1", prompt=3, completion=15),)
# Fake completions cost nothing, whatever model they pretend to be.
_FREE_PROVIDERS = frozenset({"scripted"})

_Formula = Callable[[int, int], Decimal]


@dataclass(frozen=True, slots=True)
class Cost:
    """USD; `priced` is False where no price is known, and the amount is then 0."""

    amount: Decimal
    priced: bool


UNPRICED = Cost(Decimal(0), priced=False)


class Prices:
    """The price of a call. `overrides` win over everything, by the model's exact name."""

    def __init__(self, overrides: Iterable[Price] = ()) -> None:
        self._own = {price.model: _flat_of(price) for price in (*_KNOWN, *overrides)}

    def cost(
        self, provider: str, model: str, prompt_tokens: int, completion_tokens: int, at: datetime | None = None
    ) -> Cost:
        """The cost of one call made at `at`, now if None. An unknown model is never an error."""
        own = self._own.get(model)
        if own is not None:
            return Cost(own(prompt_tokens, completion_tokens), priced=True)
        if provider in _FREE_PROVIDERS:
            return UNPRICED
        listed = _always(provider, model) or _at(provider, model, at or datetime.now(UTC))
        return UNPRICED if listed is None else Cost(listed(prompt_tokens, completion_tokens), priced=True)


def _flat_of(price: Price) -> _Formula:
    return _flat(Decimal(str(price.prompt)), Decimal(str(price.completion)))


def _flat(prompt: Decimal, completion: Decimal) -> _Formula:
    return lambda prompt_tokens, completion_tokens: (prompt * prompt_tokens + completion * completion_tokens) / _MILLION


@lru_cache(maxsize=1024)
def _always(provider: str, model: str) -> _Formula | None:
    """The formula of a model whose price does not change with time; None also where there is none."""
    found = _look_up(provider, model, datetime.now(UTC))
    if found is None or isinstance(found.model.prices, list):
        return None
    return _formula(found)


def _at(provider: str, model: str, at: datetime) -> _Formula | None:
    found = _look_up(provider, model, at) if _is_listed(provider, model) else None
    return None if found is None else _formula(found)


@lru_cache(maxsize=1024)
def _is_listed(provider: str, model: str) -> bool:
    return _look_up(provider, model, datetime.now(UTC)) is not None


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


def _formula(found: PriceCalculation) -> _Formula | None:
    """A flat price becomes plain arithmetic, which is some fifty times faster than the general way."""
    table = {key: value for key, value in vars(found.model_price).items() if not key.startswith("_")}
    prompt, completion = table.get("input_mtok"), table.get("output_mtok")
    if prompt is None and completion is None:
        return None
    if isinstance(prompt, Decimal) and isinstance(completion, Decimal):
        return _flat(prompt, completion)
    return _general(found)


def _general(found: PriceCalculation) -> _Formula:
    from genai_prices import Usage

    def formula(prompt_tokens: int, completion_tokens: int) -> Decimal:
        usage = Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens)
        return found.model_price.calc_price(usage)["total_price"]

    return formula
