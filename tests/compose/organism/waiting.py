"""An agent that waits for its model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from xml_pipeline.llm import complete
from xml_pipeline.llm.model import CompletionRequest
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse

SECONDS = 0.1


@dataclass
class Greeting:
    name: str


@dataclass
class Greeted:
    text: str


async def reply(request: CompletionRequest) -> ScriptedReply:
    await asyncio.sleep(SECONDS)
    return ScriptedReply("Good day")


async def greet(payload: Greeting, metadata: HandlerMetadata) -> HandlerResponse:
    answer = await complete(f"Greet {payload.name}")
    return HandlerResponse.respond(Greeted(text=answer.text))
