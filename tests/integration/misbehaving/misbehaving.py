"""Handlers that do what they may not."""

import asyncio
import os

from pydantic import BaseModel

from xml_pipeline.worker import HandlerMetadata, HandlerResponse, Huh, SystemError  # noqa: A004


class Ask(BaseModel):
    what: str


class Said(BaseModel):
    what: str


class Order(BaseModel):
    to: str


class Report(BaseModel):
    kind: str
    sender: str
    code: str
    text: str


async def answer(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    return HandlerResponse.respond(Said(what=payload.what))


async def delegate(payload: Order | Said | SystemError | Huh, metadata: HandlerMetadata) -> HandlerResponse:
    if isinstance(payload, Order):
        return HandlerResponse(payload=Ask(what="now"), to=payload.to)
    code = getattr(payload, "code", "")
    text = getattr(payload, "message", "") or getattr(payload, "reason", "") or getattr(payload, "what", "")
    return HandlerResponse.respond(Report(kind=metadata.kind, sender=metadata.from_id, code=code, text=text))


async def raises(payload: Ask, metadata: HandlerMetadata) -> None:
    raise RuntimeError("on purpose")


async def hangs(payload: Ask, metadata: HandlerMetadata) -> None:
    await asyncio.Event().wait()


async def returns_rubbish(payload: Ask, metadata: HandlerMetadata) -> object:
    return {"not": "a response"}


async def quits(payload: Ask, metadata: HandlerMetadata) -> None:
    os._exit(3)


async def says_nothing(payload: Ask, metadata: HandlerMetadata) -> None:
    return None
