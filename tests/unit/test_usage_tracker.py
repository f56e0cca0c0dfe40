"""The process-wide tracker."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from xml_pipeline.llm import get_usage_tracker, reset_usage_tracker
from xml_pipeline.llm.usage_tracker import UsageSums, UsageTracker


def record(tracker: UsageTracker, agent: str = "a", model: str = "grok-4.1", tokens: int = 1000) -> None:
    tracker.record(
        thread_id="t",
        agent_id=agent,
        model=model,
        provider="xai",
        prompt_tokens=tokens,
        completion_tokens=tokens,
        latency_ms=10,
    )


def test_sums_by_agent_and_by_model() -> None:
    tracker = UsageTracker()
    record(tracker, "a", "grok-4.1", 1_000_000)
    record(tracker, "b", "nobody-knows-it", 10)
    assert tracker.totals() == UsageSums(1_000_010, 1_000_010, 2, Decimal(18), 20)
    assert tracker.totals().avg_latency_ms == 10
    assert list(tracker.by_agent()) == ["a", "b"]
    assert tracker.agent("b").total_tokens == 20
    assert tracker.model("nobody-knows-it").total_cost == 0
    assert tracker.agent("c") == UsageSums()
    assert tracker.thread_count == 1


def test_from_many_threads_at_once() -> None:
    tracker = UsageTracker()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(1000):
            pool.submit(record, tracker)
    assert tracker.totals().request_count == 1000


def test_a_reset_replaces_the_tracker_of_the_process() -> None:
    record(get_usage_tracker())
    reset_usage_tracker()
    assert get_usage_tracker().totals() == UsageSums()


def test_importing_it_is_cheap() -> None:
    heavy = "['sqlalchemy', 'fastapi', 'aio_pika', 'httpx', 'genai_prices', 'stamina', 'lxml']"
    code = f"import sys, xml_pipeline.llm, xml_pipeline.llm.context; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
