"""What a call costs by one price: USD per million tokens of each kind, exact."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import NamedTuple

from xml_pipeline.llm.tokens import Tokens

# The kinds that a rate card may have. A kind without a rate is charged as what it is a part of: `input` or `output`.
PROMPT_KINDS = ("cache_read", "cache_write", "audio_input", "image_input")
COMPLETION_KINDS = ("reasoning", "audio_output", "image_output")
KINDS = ("input", "output", *PROMPT_KINDS, *COMPLETION_KINDS, "requests")
_MILLION_DIGITS = 6


@dataclass(frozen=True, slots=True)
class PriceUsed:
    """A rate card: USD per million of each kind, as decimal numbers; `id` is a hash of all the rest.

    `source` is `organism`, `built-in` or `genai-prices`; `provider` is empty where the price is that of any provider.
    """

    id: int
    provider: str
    model: str
    source: str
    rates: Mapping[str, str] = field(hash=False)


class Cost(NamedTuple):
    """USD. `uncached`: what it had cost without a cache, None where none was reported. `price`: None if unpriced."""

    amount: Decimal
    uncached: Decimal | None = None
    price: PriceUsed | None = None

    @property
    def priced(self) -> bool:
        """Whether a price is known; the amount is 0 where there is none."""
        return self.price is not None


UNPRICED = Cost(Decimal(0))


class RateCard:
    """The rates of one price, kept as whole numbers: the ledger prices every event, and Decimals take longer."""

    def __init__(self, price: PriceUsed) -> None:
        rates = {kind: Decimal(rate) for kind, rate in price.rates.items()}
        digits = max((-_exponent(rate) for rate in rates.values()), default=0)
        whole = {kind: int(rate.scaleb(digits)) for kind, rate in rates.items()}
        self.price = price
        self._scale = Decimal(10) ** (digits + _MILLION_DIGITS)
        self._input = whole.get("input", 0)
        self._output = whole.get("output", 0)
        self._request = whole.get("requests", 0)
        # What a token of the kind costs more, or less, than any other of the prompt or of the completion.
        self._cache_read, self._cache_write, self._audio_input, self._image_input = (
            whole.get(kind, self._input) - self._input for kind in PROMPT_KINDS
        )
        self._reasoning, self._audio_output, self._image_output = (
            whole.get(kind, self._output) - self._output for kind in COMPLETION_KINDS
        )

    def cost(self, tokens: Tokens) -> Cost:
        """The cost of one call. Kinds that are more than all there is count for no more than that."""
        prompt = tokens.prompt_tokens
        read, write = tokens.cache_read_tokens, tokens.cache_write_tokens
        units = self._request + self._input * prompt + self._output * tokens.completion_tokens
        cached = 0
        if read:
            read = min(read, prompt)
            cached = self._cache_read * read
            prompt -= read
        if write:
            write = min(write, prompt)
            cached += self._cache_write * write
            prompt -= write
        units += self._of_media(tokens, prompt)
        amount = Decimal(units + cached) / self._scale
        if read is None and write is None:
            return Cost(amount, None, self.price)
        return Cost(amount, Decimal(units) / self._scale if cached else amount, self.price)

    def _of_media(self, tokens: Tokens, prompt: int) -> int:
        """What reasoning, audio and images add; what was cached is charged as cached, whatever it shows."""
        units = 0
        if audio := tokens.audio_prompt_tokens:
            audio = min(audio, prompt)
            units = self._audio_input * audio
            prompt -= audio
        if image := tokens.image_prompt_tokens:
            units += self._image_input * min(image, prompt)
        completion = tokens.completion_tokens
        if audio := tokens.audio_completion_tokens:
            audio = min(audio, completion)
            units += self._audio_output * audio
            completion -= audio
        if image := tokens.image_completion_tokens:
            image = min(image, completion)
            units += self._image_output * image
            completion -= image
        if reasoning := tokens.reasoning_tokens:
            units += self._reasoning * min(reasoning, completion)
        return units


class Tariff:
    """Rate cards by the size of the prompt: the card of the highest start that it exceeds holds for all of the call."""

    def __init__(self, cards: Sequence[RateCard], starts: Sequence[int] = ()) -> None:
        self._cards = tuple(cards)
        self._starts = tuple(starts)

    def cost(self, tokens: Tokens) -> Cost:
        """The cost of one call."""
        starts = self._starts
        return self._cards[bisect_left(starts, tokens.prompt_tokens) if starts else 0].cost(tokens)


def rate_card(provider: str, model: str, source: str, rates: Mapping[str, Decimal]) -> RateCard:
    """The card of these rates, by kind, in USD per million."""
    written = {kind: format(rates[kind].normalize(), "f") for kind in KINDS if kind in rates}
    return RateCard(PriceUsed(_identify(provider, model, source, written), provider, model, source, written))


def _identify(provider: str, model: str, source: str, rates: Mapping[str, str]) -> int:
    """The same card has the same id, wherever it is made: what PostgreSQL's bigint holds of a hash."""
    parts = {"provider": provider, "model": model, "source": source, "rates": rates}
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big", signed=True)


def _exponent(rate: Decimal) -> int:
    exponent = rate.as_tuple().exponent
    return min(0, exponent) if isinstance(exponent, int) else 0
