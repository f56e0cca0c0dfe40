"""Handlers that log, and that fail with what they were told on their lips."""

import logging
import os

import structlog
from pydantic import BaseModel

from xml_pipeline.llm import complete
from xml_pipeline.worker import HandlerMetadata, HandlerResponse


class Ask(BaseModel):
    what: str
    text: str


class Said(BaseModel):
    text: str


async def talk(payload: Ask, metadata: HandlerMetadata) -> object:
    structlog.get_logger("talking").info("handler_speaks", what=payload.what)
    logging.getLogger("talking").info("handler speaks the old way")
    match payload.what:
        case "raise":
            raise LookupError(f"there is no {payload.text}")
        case "exit":
            os._exit(3)
        case "rubbish":
            return HandlerResponse.respond(f"<rubbish>{payload.text}")
        case "wrong":
            return HandlerResponse.respond(f"<talker.said><nonsense>{payload.text}</nonsense></talker.said>")
        case "stray":
            return HandlerResponse(Ask(what="talk", text=payload.text), to="nobody")
    reply = await complete(payload.text)
    return HandlerResponse.respond(Said(text=reply.text))
