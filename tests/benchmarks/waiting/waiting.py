"""An agent that waits 100 ms in each turn, as for an LLM, and asks itself a few times before it answers."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from xml_pipeline.worker import HandlerMetadata, HandlerResponse

WAIT = 0.1  # seconds


class Question(BaseModel):
    """`left` is how often it is asked again; `text` fills the message up to about 1 KiB."""

    left: int
    text: str


class Reply(BaseModel):
    """What comes back from all of it."""

    text: str


async def think(payload: Question | Reply, metadata: HandlerMetadata) -> HandlerResponse:
    """Wait, then ask or answer."""
    await asyncio.sleep(WAIT)
    if isinstance(payload, Reply) or payload.left == 0:
        return HandlerResponse.respond(Reply(text=payload.text))
    return HandlerResponse(payload=Question(left=payload.left - 1, text=payload.text), to="thinker")
