"""The process-wide record of LLM usage, for programs that run without a ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from threading import Lock

from xml_pipeline.llm.pricing import Prices
from xml_pipeline.llm.tokens import Tokens

MOST_THREADS = 100_000
# Pairs of an agent and a model that have sums of their own; what more there are share one.
MOST_SUMS = 10_000
_OTHERS = ("(others)", "(others)")


@dataclass(frozen=True, slots=True)
class UsageSums:
    """Sums over completions; cost in USD, the latency the mean in milliseconds, 0 where there were none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    request_count: int = 0
    total_cost: Decimal = field(default=Decimal(0))
    latency_ms: float = 0.0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def avg_latency_ms(self) -> float:
        """The mean latency in milliseconds."""
        return self.latency_ms / self.request_count if self.request_count else 0.0

    def __add__(self, other: UsageSums) -> UsageSums:
        return UsageSums(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.request_count + other.request_count,
            self.total_cost + other.total_cost,
            self.latency_ms + other.latency_ms,
        )


class UsageTracker:
    """Adds up completions by agent and by model. Every method may be called from any thread."""

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices or Prices()
        self._lock = Lock()
        self._sums: dict[tuple[str, str], UsageSums] = {}
        self._threads: OrderedDict[str, None] = OrderedDict()

    def record(
        self,
        *,
        thread_id: str,
        agent_id: str,
        model: str,
        provider: str,
        prompt_tokens: int,
        completion_tokens: int,
        latency_ms: float,
    ) -> UsageSums:
        """Add one completion and return it with its cost."""
        cost = self._prices.cost(provider, model, Tokens(prompt_tokens, completion_tokens))
        one = UsageSums(prompt_tokens, completion_tokens, 1, cost.amount, latency_ms)
        with self._lock:
            key = (agent_id, model)
            if key not in self._sums and len(self._sums) >= MOST_SUMS:
                key = _OTHERS
            self._sums[key] = self._sums.get(key, UsageSums()) + one
            self._threads[str(thread_id)] = None
            if len(self._threads) > MOST_THREADS:
                self._threads.popitem(last=False)
        return one

    def totals(self) -> UsageSums:
        """Over everything."""
        return sum(self._copy().values(), UsageSums())

    def by_agent(self) -> Mapping[str, UsageSums]:
        """The sums of each agent, the most tokens first."""
        return _grouped((agent, sums) for (agent, _), sums in self._copy().items())

    def by_model(self) -> Mapping[str, UsageSums]:
        """The sums of each model, the most tokens first."""
        return _grouped((model, sums) for (_, model), sums in self._copy().items())

    def agent(self, agent_id: str) -> UsageSums:
        """The sums of one agent, zeros for an unknown one."""
        return self.by_agent().get(agent_id, UsageSums())

    def model(self, model: str) -> UsageSums:
        """The sums of one model, zeros for an unknown one."""
        return self.by_model().get(model, UsageSums())

    @property
    def thread_count(self) -> int:
        """How many threads have used anything; no more than MOST_THREADS are told apart."""
        with self._lock:
            return len(self._threads)

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sums.clear()
            self._threads.clear()

    def _copy(self) -> dict[tuple[str, str], UsageSums]:
        with self._lock:
            return dict(self._sums)


def _grouped(rows: Iterable[tuple[str, UsageSums]]) -> Mapping[str, UsageSums]:
    grouped: dict[str, UsageSums] = {}
    for key, sums in rows:
        grouped[key] = grouped.get(key, UsageSums()) + sums
    return dict(sorted(grouped.items(), key=lambda item: (-item[1].total_tokens, item[0])))


_tracker = UsageTracker()
_tracker_lock = Lock()


def get_usage_tracker() -> UsageTracker:
    """The tracker of this process."""
    with _tracker_lock:
        return _tracker


def reset_usage_tracker() -> UsageTracker:
    """Replace the tracker of this process by an empty one, and return it."""
    global _tracker
    with _tracker_lock:
        _tracker = UsageTracker()
        return _tracker
