"""What the language model says to each of the team: always the same to the same prompt."""

from __future__ import annotations

from zlib import crc32

from xml_pipeline.llm.model import CompletionRequest

PLAN = (
    "What is it?",
    "What is it used for?",
    "What do its critics say?",
    "How much of it is there?",
    "How much does it cost?",
    "How fast does it grow?",
)
MISSING = ("What came before it?", "How long will it last?")


def answer(request: CompletionRequest) -> str:
    """The answer to the last message of a conversation, by who asks."""
    prompt = request.messages[-1].content
    match request.agent:
        case "planner":
            return "\n".join(PLAN)
        case "critic":
            return "accepted" if not prompt.startswith("Round 1 ") else "\n".join(MISSING)
        case "writer":
            return f"In short, {len(prompt.splitlines()) - 1} findings agree."
        case "analyst":
            return f"About {crc32(prompt.encode()) % 1000}, give or take a tenth."
        case _:
            return f"Source {crc32(prompt.encode()) % 1000} has the best account."
