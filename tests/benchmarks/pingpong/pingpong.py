"""Two agents that pass a ball of about 1 KiB: n requests out, n responses back, no LLM."""

from __future__ import annotations

from pydantic import BaseModel

from xml_pipeline.worker import HandlerMetadata, HandlerResponse

OTHER = {"ping": "pong", "pong": "ping"}


class Ball(BaseModel):
    """`left` is how many more times it is passed on; `to` is who holds it now."""

    left: int
    to: str
    text: str


class Score(BaseModel):
    """How often the ball was passed on below."""

    passes: int


async def play(payload: Ball | Score, metadata: HandlerMetadata) -> HandlerResponse:
    """Pass on, or answer."""
    if isinstance(payload, Score):
        return HandlerResponse.respond(Score(passes=payload.passes + 1))
    if payload.left == 0:
        return HandlerResponse.respond(Score(passes=0))
    other = OTHER[payload.to]
    return HandlerResponse(payload=Ball(left=payload.left - 1, to=other, text=payload.text), to=other)
