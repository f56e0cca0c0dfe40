"""A greeter, who asks an LLM for the words, and a shouter."""

from __future__ import annotations

from dataclasses import dataclass

from xml_pipeline.llm import complete
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


@dataclass
class Greeting:
    """Asks for a greeting."""

    name: str


@dataclass
class Greeted:
    """The greeting."""

    text: str


@dataclass
class Shout:
    """Asks for capitals."""

    text: str


@dataclass
class Shouted:
    """The capitals."""

    text: str


async def greet(payload: Greeting | Shouted, metadata: HandlerMetadata) -> HandlerResponse:
    """Have the LLM's greeting shouted, then answer with what was shouted."""
    if isinstance(payload, Shouted):
        return HandlerResponse.respond(Greeted(text=payload.text))
    reply = await complete(f"Greet {payload.name}")
    return HandlerResponse(payload=Shout(text=reply.text), to="shouter")


async def shout(payload: Shout, metadata: HandlerMetadata) -> HandlerResponse:
    """Answer in capitals."""
    return HandlerResponse.respond(Shouted(text=payload.text.upper()))
