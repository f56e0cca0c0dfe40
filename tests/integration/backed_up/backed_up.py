"""Handlers that stand still, fail or spend until a file says that everything was restored."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from xml_pipeline.llm import complete
from xml_pipeline.llm.model import CompletionRequest
from xml_pipeline.llm.scripted import ScriptedReply
from xml_pipeline.worker import HandlerMetadata, HandlerResponse

TOKENS = 500
_PROMPT = "x" * (400 - 16 - 16)
_CALLS = 5


class Ask(BaseModel):
    """What is asked."""

    text: str


class Told(BaseModel):
    """What is answered."""

    text: str


class Help(BaseModel):
    """What a peer is asked."""

    text: str


class Helped(BaseModel):
    """What a peer answers."""

    text: str


def there(name: str) -> bool:
    """Whether the test has made this file."""
    return (Path(os.environ["BACKED_UP_SIGNS"]) / name).exists()


async def answer(request: CompletionRequest) -> ScriptedReply:
    """500 tokens; the slow one's after the restore, the payer's when it is told so."""
    awaited = {"slow": "restored", "payer": "pay"}.get(request.agent)
    while awaited and not there(awaited):  # noqa: ASYNC110 - it is about another process
        await asyncio.sleep(0.05)
    return ScriptedReply("done", prompt_tokens=400, completion_tokens=100)


async def ask(payload: Ask | Helped, metadata: HandlerMetadata) -> HandlerResponse:
    """Ask a model, then the peer."""
    if isinstance(payload, Helped):
        return HandlerResponse.respond(Told(text=payload.text))
    await complete(_PROMPT)
    return HandlerResponse(payload=Help(text=payload.text), to="helper")


async def lend_hand(payload: Help, metadata: HandlerMetadata) -> HandlerResponse:
    """Help."""
    return HandlerResponse.respond(Helped(text=payload.text.upper()))


async def once(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    """Ask a model once."""
    await complete(_PROMPT)
    return HandlerResponse.respond(Told(text=payload.text))


async def fail(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    """Fail until the restore."""
    if not there("restored"):
        raise RuntimeError("not yet")
    return HandlerResponse.respond(Told(text=payload.text))


async def spend(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    """Ask a model too often."""
    for _ in range(_CALLS):
        await complete(_PROMPT)
    return HandlerResponse.respond(Told(text=payload.text))
