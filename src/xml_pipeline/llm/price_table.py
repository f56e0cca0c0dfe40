"""The prices that genai-prices lists, by provider, model and time."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from xml_pipeline.llm.rate_card import RateCard, Tariff, rate_card

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, PriceCalculation

SOURCE = "genai-prices"
_KINDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "audio_input": "input_audio_mtok",
    "image_input": "input_image_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_output": "output_audio_mtok",
    "image_output": "output_image_mtok",
}
_REQUESTS = "requests_kcount"  # USD per thousand, all else is per million
_MOST_MINUTES = 4096


def listed_tariff(provider: str, model: str, at: datetime | None) -> Tariff | None:
    """What the table lists for a call made at `at` (with a time zone; now if None), None where it lists nothing."""
    listing = _listing(provider, model)
    return listing.at(at or datetime.now(UTC)) if isinstance(listing, _Changing) else listing


class _Changing:
    """Prices that change with time; at full minutes, at the finest."""

    def __init__(self, provider: str, model: ModelInfo) -> None:
        self._provider = provider
        self._model = model
        self._minutes: dict[int, Tariff | None] = {}
        self._tariffs: dict[int, Tariff | None] = {}

    def at(self, at: datetime) -> Tariff | None:
        minute = int(at.timestamp() // 60)
        try:
            return self._minutes[minute]
        except KeyError:
            return self._look_up(at, minute)

    def _look_up(self, at: datetime, minute: int) -> Tariff | None:
        listed = self._model.get_prices(at)
        if id(listed) not in self._tariffs:
            self._tariffs[id(listed)] = _tariff(self._provider, self._model.id, listed)
        if len(self._minutes) >= _MOST_MINUTES:
            self._minutes.clear()
        return self._minutes.setdefault(minute, self._tariffs[id(listed)])


@lru_cache(maxsize=1024)
def _listing(provider: str, model: str) -> Tariff | _Changing | None:
    """Kept, since the table's own calculation takes 400 us."""
    # An OpenAI-compatible endpoint may serve anybody's model, so the model alone is tried too.
    for provider_id in (provider, None):
        found = _look_up(provider_id, model)
        if found is not None:
            if isinstance(found.model.prices, list):
                return _Changing(found.provider.id, found.model)
            return _tariff(found.provider.id, found.model.id, found.model_price)
    return None


def _look_up(provider_id: str | None, model: str) -> PriceCalculation | None:
    from genai_prices import Usage, calc_price  # loads its whole table

    try:
        return calc_price(Usage(), model, provider_id=provider_id)
    except LookupError:
        return None


def _tariff(provider: str, model: str, listed: ModelPrice) -> Tariff | None:
    """None for what is not priced by tokens."""
    from genai_prices.types import TieredPrices

    prices = {kind: price for kind, key in _KINDS.items() if (price := vars(listed).get(key)) is not None}
    if not prices:
        return None
    tiered = [price for price in prices.values() if isinstance(price, TieredPrices)]
    starts = sorted({tier.start for price in tiered for tier in price.tiers})
    return Tariff([_card(provider, model, listed, reached) for reached in (-1, *starts)], starts)


def _card(provider: str, model: str, listed: ModelPrice, reached: int) -> RateCard:
    """The card of prompts that exceed the start `reached`, and no higher one; -1 for those that exceed none."""
    table = vars(listed)
    rates = {kind: _rate(table[key], reached) for kind, key in _KINDS.items() if table.get(key) is not None}
    if (requests := table.get(_REQUESTS)) is not None:
        rates["requests"] = _rate(requests, reached) * 1000
    return rate_card(provider, model, SOURCE, rates)


def _rate(listed: object, reached: int) -> Decimal:
    from genai_prices.types import TieredPrices

    if not isinstance(listed, TieredPrices):
        return Decimal(str(listed))
    return next((tier.price for tier in reversed(listed.tiers) if tier.start <= reached), listed.base)
