"""Three levels, of which only the deepest can fail; nobody takes errors."""

from pydantic import BaseModel

from xml_pipeline.worker import HandlerMetadata, HandlerResponse


class Ask(BaseModel):
    what: str


class Said(BaseModel):
    what: str


async def chief(payload: Ask | Said, metadata: HandlerMetadata) -> HandlerResponse:
    return _passed_on(payload, "clerk")


async def clerk(payload: Ask | Said, metadata: HandlerMetadata) -> HandlerResponse:
    return _passed_on(payload, "reader")


async def reader(payload: Ask, metadata: HandlerMetadata) -> HandlerResponse:
    if payload.what == "misspelt":
        raise LookupError("there is no such file")
    return HandlerResponse.respond(Said(what=f"read {payload.what}"))


def _passed_on(payload: Ask | Said, down: str) -> HandlerResponse:
    if isinstance(payload, Said):
        return HandlerResponse.respond(payload)
    return HandlerResponse(payload=payload, to=down)
