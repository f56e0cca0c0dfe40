"""Completions by a large language model, paid by a thread's budget."""

from xml_pipeline.llm.completion import complete
from xml_pipeline.llm.errors import BudgetExhausted, ProviderError
from xml_pipeline.llm.model import ChatMessage, Completion
from xml_pipeline.llm.tokens import Tokens
from xml_pipeline.llm.usage_tracker import UsageTracker, get_usage_tracker, reset_usage_tracker

__all__ = [
    "BudgetExhausted",
    "ChatMessage",
    "Completion",
    "ProviderError",
    "Tokens",
    "UsageTracker",
    "complete",
    "get_usage_tracker",
    "reset_usage_tracker",
]
