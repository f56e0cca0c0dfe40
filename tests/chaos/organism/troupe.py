"""What faults are tried on beside the research team: slow, talkative, poisonous, blocking."""

from __future__ import annotations

import asyncio
import random
import time
from typing import cast

from pydantic import BaseModel

from xml_pipeline.llm import complete
from xml_pipeline.llm.model import CompletionRequest
from xml_pipeline.llm.scripted import load_script
from xml_pipeline.worker import HandlerMetadata, HandlerResponse

# Seconds that a completion takes: those of the slow one are sure to be under way when something dies.
USUAL = 0.03
LONG = 1.5
BLOCK = 60.0

_research = load_script("research_script.answer")


class Say(BaseModel):
    """Something for the talker; topics of all requests are different."""

    topic: str


class Said(BaseModel):
    """The talker's answer."""

    topic: str
    text: str


class Sound(BaseModel):
    """Something to be echoed."""

    topic: str
    text: str


class Sounded(BaseModel):
    """The echo."""

    topic: str
    text: str


class Slow(BaseModel):
    """A request that takes its time."""

    topic: str


class Slept(BaseModel):
    """The answer to a slow one."""

    topic: str


class Poison(BaseModel):
    """A request that cannot be handled."""

    topic: str


class Block(BaseModel):
    """A request whose handler blocks."""

    topic: str


async def answer(request: CompletionRequest) -> str:
    """The script of the model: the research team's, after a while."""
    await asyncio.sleep(LONG if request.agent == "slow" else USUAL * random.uniform(0.5, 1.5))
    return cast(str, _research(request))


async def talk(payload: Say | Sounded, metadata: HandlerMetadata) -> HandlerResponse:
    """Ask, have it echoed, answer."""
    if isinstance(payload, Sounded):
        return HandlerResponse.respond(Said(topic=payload.topic, text=payload.text))
    reply = await complete(f"Say {payload.topic}")
    return HandlerResponse(Sound(topic=payload.topic, text=reply.text), to="echo")


async def sound(payload: Sound, metadata: HandlerMetadata) -> HandlerResponse:
    """Say it again."""
    return HandlerResponse.respond(Sounded(topic=payload.topic, text=payload.text))


async def sleep(payload: Slow, metadata: HandlerMetadata) -> HandlerResponse:
    """Answer when the model has."""
    await complete(f"Take your time over {payload.topic}")
    return HandlerResponse.respond(Slept(topic=payload.topic))


async def fail(payload: Poison, metadata: HandlerMetadata) -> HandlerResponse:
    """Fail."""
    raise RuntimeError("poison")


async def block(payload: Block, metadata: HandlerMetadata) -> HandlerResponse:
    """Hold up everything beside it in this process."""
    time.sleep(BLOCK)  # noqa: ASYNC251 - that is what it is for
    return HandlerResponse.respond(Slept(topic=payload.topic))
